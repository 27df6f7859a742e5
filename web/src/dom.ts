// Elements without HTML: whatever a pod chose as its name is text here, and nothing else.

type Child = Node | string | number | null;

export interface Props {
  class?: string;
  title?: string;
  data?: Record<string, string>;
  attributes?: Record<string, string>;
  on?: Record<string, (event: Event) => void>;
}

function fill<E extends Element>(element: E, props: Props, children: Child[]): E {
  if (props.class) element.setAttribute("class", props.class);
  if (props.title) element.setAttribute("title", props.title);
  for (const [name, value] of Object.entries(props.data ?? {})) element.setAttribute(`data-${name}`, value);
  for (const [name, value] of Object.entries(props.attributes ?? {})) element.setAttribute(name, value);
  for (const [name, act] of Object.entries(props.on ?? {})) element.addEventListener(name, act);
  for (const child of children) {
    if (child !== null) element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

/** An HTML element. */
export function el<K extends keyof HTMLElementTagNameMap>(tag: K, props: Props = {}, ...children: Child[]): HTMLElementTagNameMap[K] {
  return fill(document.createElement(tag), props, children);
}

/** An SVG element. */
export function svg<K extends keyof SVGElementTagNameMap>(tag: K, props: Props = {}, ...children: Child[]): SVGElementTagNameMap[K] {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
}

/** The element of index.html with this id. */
export function byId<E extends HTMLElement = HTMLElement>(id: string): E {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no element ${id}`);
  return found as E;
}

/** Sets a text, and touches the document only if it changes. */
export function setText(node: Element, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}
