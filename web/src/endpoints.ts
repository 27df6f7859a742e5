// Exchanges added up by what was asked, so that the slow one stands out: of those that came since the
// filters were set, as the serving end saw them, or the asking one where the server is no pod of this node.

import { label, type Flow } from "./api";
import { el } from "./dom";
import { rate, seconds, share } from "./format";

/** Endpoints that are told apart; the rarest gives way. */
const MOST = 500;

/** Durations of each that are remembered. */
const DURATIONS = 200;

/** Rows that are shown. */
const ROWS = 100;

interface Endpoint {
  pod: string;
  protocol: string;
  what: string;
  count: number;
  failed: number;
  /** In no order. */
  durations: number[];
}

/** Parts of a path that name one thing of many: numbers, hexadecimal ids, UUIDs. */
const ID = /^(?:\d+|(?=.*\d)[0-9a-f]{8,}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$/i;

/** `/orders/17/items` and `/orders/18/items` are one endpoint. */
function pattern(path: string): string {
  const parts = path.split("/");
  return parts.map((part) => (ID.test(part) ? "*" : part)).join("/");
}

function endpointOf(flow: Flow): string {
  if (flow.protocol === "dns") return `${flow.qtype ?? ""} ${flow.name ?? ""}`;
  if (flow.protocol === "tls") return flow.server_name ?? "";
  return flow.operation ?? `${flow.method ?? ""} ${pattern(flow.path ?? "")}`;
}

function quantile(sorted: number[], part: number): number | null {
  return sorted[Math.min(Math.ceil(sorted.length * part), sorted.length) - 1] ?? null;
}

function row({ pod, protocol, what, count, failed }: Endpoint, p50: number | null, p99: number | null): HTMLTableRowElement {
  return el(
    "tr",
    {},
    el("td", { class: "name", title: pod }, pod),
    el("td", {}, el("span", { class: "tag" }, protocol)),
    el("td", { class: "request", title: what }, what),
    el("td", { class: "number" }, rate(count)),
    el("td", { class: failed ? "number bad" : "number none" }, failed ? `${rate(failed)} (${share(failed, count)})` : "0"),
    el("td", { class: "number" }, seconds(p50)),
    el("td", { class: "number" }, seconds(p99)),
  );
}

export class Endpoints {
  #all = new Map<string, Endpoint>();

  clear(): void {
    this.#all.clear();
  }

  add(flow: Flow): void {
    // The other end of an exchange within the node is told of as well.
    if (flow.role === "client" && flow.peer_pod !== undefined) return;
    const pod = flow.role === "server" ? label(flow) : `${label(flow)} → outside`;
    const what = endpointOf(flow);
    const key = JSON.stringify([pod, flow.role, flow.protocol, what]);
    let endpoint = this.#all.get(key);
    if (!endpoint) {
      if (this.#all.size >= MOST) this.#forget();
      this.#all.set(key, (endpoint = { pod, protocol: flow.protocol, what, count: 0, failed: 0, durations: [] }));
    }
    if (flow.duration_seconds !== undefined) {
      if (endpoint.durations.length < DURATIONS) endpoint.durations.push(flow.duration_seconds);
      else endpoint.durations[endpoint.count % DURATIONS] = flow.duration_seconds;
    }
    endpoint.count += 1;
    if (flow.failed) endpoint.failed += 1;
  }

  /** From the slowest on. */
  rows(): HTMLTableRowElement[] {
    const measured = [...this.#all.values()].map((endpoint) => {
      const sorted = [...endpoint.durations].sort((a, b) => a - b);
      return { endpoint, p50: quantile(sorted, 0.5), p99: quantile(sorted, 0.99) };
    });
    measured.sort((a, b) => (b.p99 ?? -1) - (a.p99 ?? -1));
    return measured.slice(0, ROWS).map(({ endpoint, p50, p99 }) => row(endpoint, p50, p99));
  }

  #forget(): void {
    const rarest = [...this.#all].reduce((least, one) => (one[1].count < least[1].count ? one : least));
    this.#all.delete(rarest[0]);
  }
}
