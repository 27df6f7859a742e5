// Who talks to whom. dagre says where the pods go, in whichever direction there is more room.

import { Graph, layout } from "@dagrejs/dagre";
import { label, type Edge, type Name, type ServiceMap } from "./api";
import { byId, setText, svg } from "./dom";
import { rate, seconds, share } from "./format";
import { sum } from "./history";

/** What is no pod of this node; no pod is called so, as `/` parts two names. */
const OUTSIDE = "/outside";

/** A pair that has fallen silent stays for so long, so that the picture keeps still. */
const LINGER_MS = 60_000;

/** More are not legible; the busiest are drawn, and those that fail. */
const MOST = 60;

const WIDTH = 150;
const HEIGHT = 42;
const LETTERS = 18;

/** Below, nobody can read it: rather one scrolls. */
const SMALLEST = 0.62;

interface Link {
  from: string;
  to: string;
  edges: Edge[];
  rate: number;
  errors: number;
  p99: number | null;
  seen: number;
}

interface Drawn {
  path: SVGPathElement;
  text: SVGTextElement;
  title: SVGTitleElement;
}

interface Point {
  x: number;
  y: number;
}

const nameOf = (name: Name | null): string => (name ? label(name) : OUTSIDE);
const shownName = (name: string): string => (name === OUTSIDE ? "outside" : name);
const short = (text: string): string => (text.length > LETTERS ? `${text.slice(0, LETTERS - 1)}…` : text);

/** Through the points that dagre gives, without corners. */
function curve(points: Point[]): string {
  const [first, ...rest] = points;
  const last = rest.pop();
  if (!first || !last) return "";
  let path = `M${first.x},${first.y}`;
  rest.forEach((point, at) => {
    const next = rest[at + 1] ?? last;
    const end = at + 1 < rest.length ? { x: (point.x + next.x) / 2, y: (point.y + next.y) / 2 } : last;
    path += `Q${point.x},${point.y} ${end.x},${end.y}`;
  });
  return rest.length ? path : `${path}L${last.x},${last.y}`;
}

/** Where everything goes: askers left or above, answerers right or below. */
function plan(links: [string, Link][], rankdir: "LR" | "TB"): Graph {
  const graph = new Graph({ multigraph: true });
  const across = rankdir === "LR";
  graph.setGraph({ rankdir, nodesep: across ? 22 : 28, ranksep: across ? 40 : 46, edgesep: 18, marginx: 6, marginy: 8 });
  for (const [key, link] of links) {
    for (const name of [link.from, link.to]) graph.setNode(name, { width: WIDTH, height: HEIGHT });
    graph.setEdge(link.from, link.to, { width: 84, height: 18, labelpos: "c" }, key);
  }
  layout(graph);
  return graph;
}

export class ServiceGraph {
  #links = new Map<string, Link>();
  #selected = "";
  #layout = "";
  #drawn = new Map<string, Drawn>();
  #nodes = new Map<string, { group: SVGGElement; note: SVGTextElement }>();
  #stage = byId("map-stage") as unknown as SVGSVGElement;

  constructor(private readonly select: (name: string) => void) {}

  set(map: ServiceMap): void {
    const now = Date.now();
    for (const link of this.#links.values()) Object.assign(link, { edges: [], rate: 0, errors: 0, p99: null });
    for (const edge of map.edges) {
      const [from, to] = [nameOf(edge.from), nameOf(edge.to)];
      const key = JSON.stringify([from, to]);
      const link = this.#links.get(key) ?? { from, to, edges: [], rate: 0, errors: 0, p99: null, seen: now };
      link.edges.push(edge);
      link.rate += edge.rate;
      link.errors += edge.error_rate;
      link.p99 = Math.max(link.p99 ?? 0, edge.p99_seconds ?? 0) || null;
      link.seen = now;
      this.#links.set(key, link);
    }
    for (const [key, link] of this.#links) if (now - link.seen > LINGER_MS) this.#links.delete(key);
    this.#show(map.left_out);
  }

  mark(selected: string): void {
    this.#selected = selected;
    this.#show(0);
  }

  /** Those worth drawing: of the pod that was chosen, or the busiest. */
  #chosen(): [string, Link][] {
    const near = ([, link]: [string, Link]) => !this.#selected || link.from === this.#selected || link.to === this.#selected;
    const worth = (link: Link) => (link.errors > 0 ? 1e9 : 0) + link.rate;
    return [...this.#links].filter(near).sort(([, a], [, b]) => worth(b) - worth(a)).slice(0, MOST).sort(([a], [b]) => (a < b ? -1 : 1));
  }

  #show(leftOut: number): void {
    const links = this.#chosen();
    const layoutOf = JSON.stringify(links.map(([key]) => key));
    if (layoutOf !== this.#layout) {
      this.#layout = layoutOf;
      this.#arrange(links);
    }
    for (const [key, link] of links) this.#fill(key, link);
    for (const [name, { group, note }] of this.#nodes) {
      const into = links.filter(([, link]) => link.to === name).map(([, link]) => link);
      const served = sum(into.map((link) => link.rate)) ?? 0;
      const errors = sum(into.map((link) => link.errors)) ?? 0;
      setText(note, served > 0 ? `${rate(served)}/s${errors > 0 ? ` · ${share(errors, served)} failed` : ""}` : name === OUTSIDE ? "not of this node" : "asks only");
      group.classList.toggle("bad", errors > 0);
      group.classList.toggle("selected", name === this.#selected);
      if (name !== OUTSIDE) group.setAttribute("aria-pressed", String(name === this.#selected));
    }
    const hidden = this.#selected ? 0 : this.#links.size - links.length;
    const notes = [hidden > 0 ? `${hidden} quieter pairs not drawn` : "", leftOut > 0 ? `${leftOut} exchanges left out` : ""];
    setText(byId("map-note"), notes.filter(Boolean).join(", "));
    byId("no-map").hidden = links.length > 0;
  }

  #arrange(links: [string, Link][]): void {
    const focused = [...this.#nodes].find(([, { group }]) => group === document.activeElement)?.[0];
    this.#drawn.clear();
    this.#nodes.clear();
    byId("map-drawing").replaceChildren();
    if (!links.length) return;
    const room = this.#stage.parentElement!;
    const plans = (["LR", "TB"] as const).map((direction) => {
      const graph = plan(links, direction);
      const { width = 1, height = 1 } = graph.graph() as { width?: number; height?: number };
      return { graph, width, height, scale: Math.min((room.clientWidth - 16) / width, (room.clientHeight - 16) / height, 1) };
    });
    const { graph, width, height, scale } = plans.reduce((best, other) => (other.scale > best.scale ? other : best));
    this.#stage.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.#stage.setAttribute("width", `${width * Math.max(scale, SMALLEST)}`);
    this.#stage.setAttribute("height", `${height * Math.max(scale, SMALLEST)}`);
    const edges = links.map(([key, link]) => this.#edge(key, graph.edge({ v: link.from, w: link.to, name: key }) as unknown as { points: Point[] } & Point));
    const nodes = graph.nodes().map((name) => this.#node(name, graph.node(name) as unknown as Point));
    byId("map-drawing").replaceChildren(...edges, ...nodes);
    if (focused !== undefined) this.#nodes.get(focused)?.group.focus({ preventScroll: true });
  }

  #edge(key: string, { points, x, y }: { points: Point[] } & Point): SVGGElement {
    const title = svg("title");
    const path = svg("path", { attributes: { d: curve(points), "marker-end": "url(#arrow)" } }) as SVGPathElement;
    const text = svg("text", { attributes: { x: `${x}`, y: `${y + 4}` } }) as SVGTextElement;
    this.#drawn.set(key, { path, text, title });
    return svg("g", { class: "edge", attributes: { role: "img" } }, title, path, text);
  }

  #fill(key: string, link: Link): void {
    const drawn = this.#drawn.get(key);
    if (!drawn) return;
    const protocols = [...new Set(link.edges.map((edge) => edge.protocol))].join(" ");
    setText(drawn.text, link.rate > 0 ? `${protocols} ${rate(link.rate)}/s` : "quiet");
    const lines = link.edges.map((edge) => {
      const failed = edge.error_rate > 0 ? `, ${share(edge.error_rate, edge.rate)} failed` : "";
      return `${edge.protocol}: ${rate(edge.rate)}/s${failed}, p50 ${seconds(edge.p50_seconds)}, p99 ${seconds(edge.p99_seconds)}`;
    });
    setText(drawn.title, [`${shownName(link.from)} → ${shownName(link.to)}`, ...lines].join("\n"));
    // The policy forbids style attributes in markup, but not what a script sets here.
    drawn.path.style.strokeWidth = `${1.25 + Math.min(Math.log10(1 + link.rate), 4)}`;
    drawn.path.parentElement?.setAttribute("class", `edge${link.rate > 0 ? "" : " quiet"}${link.errors > 0 ? " bad" : ""}`);
    drawn.path.setAttribute("marker-end", link.errors > 0 ? "url(#arrow-bad)" : "url(#arrow)");
  }

  #node(name: string, { x, y }: Point): SVGGElement {
    const outside = name === OUTSIDE;
    const press = () => this.select(this.#selected === name ? "" : name);
    const key = (event: Event) => {
      if (!["Enter", " "].includes((event as KeyboardEvent).key)) return;
      // Space would scroll.
      event.preventDefault();
      press();
    };
    const at = { x: `${x - WIDTH / 2}`, y: `${y - HEIGHT / 2}`, width: `${WIDTH}`, height: `${HEIGHT}`, rx: "7" };
    const centre = (dy: number) => ({ x: `${x}`, y: `${y + dy}` });
    const note = svg("text", { class: "note", attributes: centre(14) });
    const group = svg(
      "g",
      outside
        ? { class: "node outside", data: { pod: name } }
        : {
            class: "node",
            data: { pod: name },
            attributes: { tabindex: "0", role: "button" },
            on: { click: press, keydown: key },
          },
      svg("title", {}, shownName(name)),
      svg("rect", { attributes: at }),
      svg("text", { class: "name", attributes: centre(-3) }, short(shownName(name))),
      note,
    );
    this.#nodes.set(name, { group, note });
    return group;
  }
}
