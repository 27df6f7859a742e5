// The table of pods: sorted by whatever is asked, filtered by name, a click away from a pod's own view.

import { KINDS, label, type Pod, type PodSide } from "./api";
import { Spark } from "./chart";
import { byId, el, setText } from "./dom";
import { UNKNOWN, bytes, rate, seconds } from "./format";
import { History, most, sum } from "./history";

/** A side's kinds together. */
export interface Total {
  rate: number | null;
  errors: number | null;
  p99: number | null;
}

export const total = (side: PodSide): Total => ({
  rate: sum(KINDS.map((kind) => side[kind].rate)),
  errors: sum(KINDS.map((kind) => side[kind].error_rate)),
  p99: most(KINDS.map((kind) => side[kind].p99_seconds)),
});

interface Row {
  pod: Pod;
  name: string;
  serves: Total;
  asks: Total;
}

interface Column {
  id: string;
  of: (row: Row) => number | string | null;
  text?: (row: Row) => string;
  /** Whether the cell tells of something that is wrong. */
  bad?: (row: Row) => boolean;
}

const COLUMNS: Column[] = [
  { id: "name", of: (row) => row.name },
  { id: "serves", of: (row) => row.serves.rate, text: (row) => rate(row.serves.rate) },
  { id: "serves-errors", of: (row) => row.serves.errors, text: (row) => rate(row.serves.errors), bad: (row) => (row.serves.errors ?? 0) > 0 },
  { id: "serves-p99", of: (row) => row.serves.p99, text: (row) => seconds(row.serves.p99) },
  { id: "asks", of: (row) => row.asks.rate, text: (row) => rate(row.asks.rate) },
  { id: "asks-errors", of: (row) => row.asks.errors, text: (row) => rate(row.asks.errors), bad: (row) => (row.asks.errors ?? 0) > 0 },
  { id: "asks-p99", of: (row) => row.asks.p99, text: (row) => seconds(row.asks.p99) },
  { id: "rx", of: (row) => row.pod.network.rx_rate, text: (row) => bytes(row.pod.network.rx_rate) },
  { id: "tx", of: (row) => row.pod.network.tx_rate, text: (row) => bytes(row.pod.network.tx_rate) },
  { id: "trend", of: (row) => (row.serves.rate ?? 0) + (row.asks.rate ?? 0) },
];

interface Shown {
  line: HTMLTableRowElement;
  cells: HTMLTableCellElement[];
  /** Made when it is first seen, and kept up while it is in sight: plots cost more than all else. */
  spark: Spark | null;
  inSight: boolean;
}

/** `p2` comes before `p10`. */
const NAMES = new Intl.Collator("en", { numeric: true });

/** Names first, numbers from the greatest on. */
function compare(column: Column, a: Row, b: Row): number {
  const [of, than] = [column.of(a), column.of(b)];
  if (typeof of === "string" && typeof than === "string") return NAMES.compare(of, than);
  return Number(than ?? -1) - Number(of ?? -1);
}

export class Pods {
  #rows: Row[] = [];
  #shown = new Map<string, Shown>();
  #sort = "trend";
  #reverse = false;
  #filter = "";
  #selected = "";
  #body = byId("pod-rows");
  #sight = new IntersectionObserver((changes) => {
    for (const { target, isIntersecting } of changes) {
      const shown = this.#shown.get((target as HTMLElement).dataset["pod"] ?? "");
      if (shown?.line === target) shown.inSight = isIntersecting;
    }
  });
  #heads = [...byId("pods").querySelectorAll<HTMLButtonElement>("th button")];

  constructor(
    private readonly history: History,
    private readonly select: (name: string) => void,
  ) {
    for (const head of this.#heads) {
      head.addEventListener("click", () => {
        const id = head.dataset["sort"] ?? "";
        this.#reverse = this.#sort === id && !this.#reverse;
        this.#sort = id;
        this.#show(true);
      });
    }
    byId<HTMLInputElement>("pod-filter").addEventListener("input", (event) => {
      this.#filter = (event.target as HTMLInputElement).value.trim().toLowerCase();
      this.#show();
    });
  }

  set(pods: Pod[]): void {
    this.#rows = pods.map((pod) => ({ pod, name: label(pod), serves: total(pod.server), asks: total(pod.client) }));
    this.#show();
  }

  mark(selected: string): void {
    this.#selected = selected;
    this.#show();
  }

  /** In the colours of now. */
  redraw(): void {
    for (const { spark } of this.#shown.values()) spark?.set([], []);
    this.#show();
  }

  /** Whether somebody points at the rows, or is among them by keyboard: what one aims at has to keep its place. */
  #heeded(): boolean {
    return this.#body.matches(":hover, :has(:focus-visible)");
  }

  #show(sorted = !this.#heeded()): void {
    const column = COLUMNS.find((one) => one.id === this.#sort) ?? COLUMNS[0]!;
    const rows = this.#rows.filter((row) => row.name.toLowerCase().includes(this.#filter));
    rows.sort((a, b) => compare(column, a, b) * (this.#reverse ? -1 : 1) || NAMES.compare(a.name, b.name));
    if (!sorted) {
      const places = new Map([...this.#body.children].map((line, at) => [(line as HTMLElement).dataset["pod"], at]));
      const place = (row: Row) => places.get(row.name) ?? places.size;
      rows.sort((a, b) => place(a) - place(b));
    }
    const times = this.history.times(60);
    const keep = new Set(rows.map((row) => row.name));
    for (const [name, { line, spark }] of this.#shown) {
      if (!keep.has(name)) {
        line.remove();
        spark?.destroy();
        this.#sight.unobserve(line);
        this.#shown.delete(name);
      }
    }
    // An element that is moved loses the focus.
    const focused = this.#body.contains(document.activeElement) ? (document.activeElement as HTMLElement) : null;
    rows.forEach((row, at) => {
      const shown = this.#shown.get(row.name) ?? this.#add(row.name);
      if (this.#body.children[at] !== shown.line) this.#body.insertBefore(shown.line, this.#body.children[at] ?? null);
      this.#fill(shown, row, times);
    });
    if (document.activeElement !== focused) focused?.focus({ preventScroll: true });
    for (const head of this.#heads) {
      const here = head.dataset["sort"] === this.#sort;
      const down = (this.#sort === "name") === this.#reverse;
      head.closest("th")?.setAttribute("aria-sort", here ? (down ? "descending" : "ascending") : "none");
    }
    setText(byId("pod-count"), rows.length === this.#rows.length ? `${rows.length}` : `${rows.length} of ${this.#rows.length}`);
    byId("no-pods").hidden = rows.length > 0;
  }

  #add(name: string): Shown {
    const press = el("button", { class: "link", on: { click: () => this.select(this.#selected === name ? "" : name) } }, name);
    const cells = COLUMNS.map((column) => el("td", { class: column.id === "name" ? "name" : "number" }));
    cells[0]?.append(press);
    const line = el("tr", { data: { pod: name } }, ...cells);
    const shown: Shown = { line, cells, spark: null, inSight: false };
    this.#shown.set(name, shown);
    this.#sight.observe(line);
    return shown;
  }

  #fill(shown: Shown, row: Row, times: number[]): void {
    const { line, cells } = shown;
    COLUMNS.forEach((column, at) => {
      const cell = cells[at];
      if (!cell || !column.text) return;
      const text = column.text(row);
      setText(cell, text);
      cell.classList.toggle("bad", column.bad?.(row) ?? false);
      cell.classList.toggle("none", text === UNKNOWN || text === "0" || text === "0 B");
    });
    line.classList.toggle("selected", row.name === this.#selected);
    line.classList.toggle("uncounted", !row.pod.counted);
    line.title = row.pod.counted ? "" : "This pod's traffic is not counted: `weir pods` says why";
    if (!shown.inSight) return;
    const spark = (shown.spark ??= new Spark());
    if (!spark.element.isConnected) cells.at(-1)?.append(spark.element);
    const all = KINDS.flatMap((kind) => (["server", "client"] as const).map((side) => this.history.values(row.name, `${side}.${kind}.rate`, 60)));
    spark.set(times, times.map((_, at) => sum(all.map((values) => values[at] ?? null))));
  }
}
