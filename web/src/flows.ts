// The newest exchanges, through the same filters as `weir observe`; the agent does the filtering.

import { Stream, label, type Flow, type Health } from "./api";
import { Endpoints } from "./endpoints";
import { byId, el, setText } from "./dom";
import { clock, seconds } from "./format";

/** Rows; what came before them is gone. */
const ROWS = 200;

/** Read at a time; what is beyond that in a flood or a pause is counted, but not looked at. */
const READ = 1000;

/** Between two changes of what is shown: nobody reads faster. */
const PACE_MS = 250;

/** The exchanges one by one, and added up. */
const VIEWS = ["flow-list", "endpoint-list"];

/** Where records were lost (docs/operate.md). */
const NONE = { ring: 0, client: 0, away: 0 };
type Place = keyof typeof NONE;

/** Filter by name of the query parameter. */
const FILTERS = ["pod", "protocol", "status", "path_prefix", "slower_than"] as const;
type Filter = (typeof FILTERS)[number];

function request(flow: Flow): string {
  if (flow.name !== undefined) return `${flow.qtype ?? ""} ${flow.name}`;
  if (flow.protocol === "tls") return flow.server_name ?? "";
  return flow.operation ?? `${flow.method ?? ""} ${flow.path ?? ""}`;
}

function answer(flow: Flow): string {
  const parts = [flow.status, flow.grpc_status && `grpc ${flow.grpc_status}`, flow.rcode, flow.tls_version, flow.outcome, flow.error];
  return parts.filter((part) => part !== undefined).join(" ");
}

function row(flow: Flow, select: (name: string) => void): HTMLTableRowElement {
  const pod = label(flow);
  const peer = flow.peer_pod === undefined ? (flow.peer ?? "") : label({ namespace: flow.peer_namespace ?? "", pod: flow.peer_pod });
  const press = (name: string) => el("button", { class: "link", on: { click: () => select(name) } }, name);
  const serves = flow.role === "server";
  const status = Math.floor((flow.status ?? 0) / 100);
  return el(
    "tr",
    {},
    el("td", { class: "time", title: flow.time }, clock(flow.time)),
    el("td", { class: "name" }, press(pod)),
    el("td", { class: `direction ${flow.role}`, title: serves ? "served" : "asked" }, serves ? "←" : "→"),
    el("td", { class: "name", title: flow.peer ?? "" }, flow.peer_pod === undefined ? peer : press(peer)),
    el("td", {}, el("span", { class: `tag ${flow.protocol}` }, flow.protocol)),
    el("td", { class: "request", title: `${flow.host ?? ""} ${request(flow)}`.trim() }, request(flow)),
    el("td", {}, el("span", { class: `status ${flow.failed ? "bad" : status === 4 ? "warn" : "good"}` }, answer(flow))),
    el("td", { class: "number" }, seconds(flow.duration_seconds)),
    el("td", { class: "trace", title: flow.trace_id ?? "" }, flow.trace_id?.slice(0, 8) ?? ""),
  );
}

export class Flows {
  /** Not read yet, newest last. Most of a flood is never read. */
  #waiting: string[] = [];
  #endpoints = new Endpoints();
  #unread = 0;
  #total = 0;
  #lost = { ...NONE };
  #paused = false;
  #body = byId("flow-rows");
  #stream: Stream;

  constructor(
    private readonly select: (name: string) => void,
    health: Health,
  ) {
    const said: Health = (state, why) => {
      setText(byId("flow-error"), state === "broken" ? why : "");
      health(state, why);
    };
    this.#stream = new Stream(this.#url(), (data) => this.#take(data), said, (data) => this.#miss(data));
    let typed: ReturnType<typeof setTimeout>;
    for (const filter of FILTERS) {
      this.#input(filter).addEventListener("input", () => {
        clearTimeout(typed);
        typed = setTimeout(() => this.begin(), 300);
      });
    }
    byId("flow-pause").addEventListener("click", () => this.#pause());
    byId("flow-clear").addEventListener("click", () => {
      for (const filter of FILTERS) this.#input(filter).value = "";
      this.begin();
    });
    for (const view of VIEWS) {
      byId(`show-${view}`).addEventListener("click", () => this.#view(view));
    }
    setInterval(() => this.#show(), PACE_MS);
  }

  /** Asks anew, with the filters of now. */
  begin(): void {
    this.#waiting = [];
    this.#total = 0;
    this.#unread = 0;
    this.#lost = { ...NONE };
    this.#endpoints.clear();
    byId("endpoint-rows").replaceChildren();
    this.#body.replaceChildren();
    this.#stream.begin(this.#url());
  }

  /** Shows this pod's alone, or with an empty name everybody's. */
  only(pod: string): void {
    if (this.#input("pod").value === pod) return;
    this.#input("pod").value = pod;
    this.begin();
  }

  #input(filter: Filter): HTMLInputElement {
    return byId<HTMLInputElement>(`filter-${filter}`);
  }

  #url(): string {
    const query = new URLSearchParams();
    for (const filter of FILTERS) {
      const value = this.#input(filter).value.trim();
      if (value) query.set(filter, value);
    }
    query.set("since", "5m");
    return `api/flows?${query}`;
  }

  /** The exchanges one by one, or added up. */
  #view(shown: string): void {
    for (const view of VIEWS) {
      byId(view).hidden = view !== shown;
      byId(`show-${view}`).setAttribute("aria-pressed", String(view === shown));
    }
    byId("endpoint-rows").replaceChildren(...this.#endpoints.rows());
  }

  #pause(): void {
    // What came before stands in the rows then.
    this.#read();
    this.#paused = !this.#paused;
    byId("flow-pause").setAttribute("aria-pressed", String(this.#paused));
    setText(byId("flow-pause"), this.#paused ? "Go on" : "Pause");
  }

  #take(data: string): void {
    this.#total += 1;
    this.#waiting.push(data);
    if (this.#waiting.length >= 2 * READ) {
      this.#waiting.splice(0, READ);
      this.#unread += READ;
    }
  }

  #miss(data: string): void {
    const { records, where } = JSON.parse(data) as { records: number; where: Place };
    this.#lost[where] += records;
  }

  /** Whether somebody points at the rows, or is among them by keyboard: what one aims at has to keep its place. */
  #heeded(): boolean {
    return this.#body.children.length > 0 && VIEWS.some((view) => byId(view).matches(":hover, :focus-visible, :has(:focus-visible)"));
  }

  #read(): void {
    const waiting = this.#waiting.splice(0);
    this.#unread += Math.max(waiting.length - READ, 0);
    const fresh = waiting.slice(-READ).map((data) => JSON.parse(data) as Flow);
    if (!fresh.length) return;
    for (const flow of fresh) this.#endpoints.add(flow);
    this.#body.prepend(...fresh.slice(-ROWS).map((flow) => row(flow, this.select)).reverse());
    while (this.#body.children.length > ROWS) this.#body.lastElementChild?.remove();
    if (!byId("endpoint-list").hidden) byId("endpoint-rows").replaceChildren(...this.#endpoints.rows());
  }

  #show(): void {
    if (!this.#paused && !this.#heeded()) this.#read();
    const notes = [`${this.#total} seen`];
    if (this.#waiting.length) notes.push(`${this.#waiting.length} wait ${this.#paused ? "for the pause to end" : "while you are at the rows"}`);
    if (this.#total > ROWS) notes.push(`the newest ${ROWS} shown`);
    if (this.#unread) notes.push(`${this.#unread} not looked at`);
    if (this.#lost.ring) notes.push(`${this.#lost.ring} lost in the kernel's ring`);
    if (this.#lost.client) notes.push(`${this.#lost.client} lost on the way here`);
    if (this.#lost.away) notes.push(`${this.#lost.away} passed while nobody looked`);
    setText(byId("flow-note"), notes.join(" · "));
    byId("no-flows").hidden = this.#body.children.length > 0;
  }
}
