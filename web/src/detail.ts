// One pod, or all together: what it serves and asks by protocol, and the last five minutes of one of these.

import { KINDS, SIDES, label, type Kind, type Pod, type Side } from "./api";
import { Chart } from "./chart";
import { byId, el, setText } from "./dom";
import { bytes, rate, seconds, share } from "./format";
import { ALL, History, together, type Fact } from "./history";

const SIDE_NAMES: Record<Side, string> = { server: "serves", client: "asks" };
const KIND_NAMES: Record<Kind, string> = { http: "HTTP, gRPC", dns: "DNS", db: "Databases" };

interface Line {
  side: Side;
  kind: Kind;
  row: HTMLTableRowElement;
  cells: HTMLTableCellElement[];
}

export class Detail {
  #pods: Pod[] = [];
  #selected = ALL;
  /** Chosen by hand; until then the busiest is shown. */
  #chosen: { side: Side; kind: Kind } | null = null;
  #lines: Line[] = [];
  #requests = new Chart(byId("chart-requests"), {
    lines: [
      { label: "requests/s", colour: "blue", fill: true },
      { label: "failed/s", colour: "red", fill: true },
    ],
    format: rate,
  });
  #latency = new Chart(byId("chart-latency"), {
    lines: [
      { label: "p50", colour: "teal" },
      { label: "p99", colour: "amber" },
    ],
    format: seconds,
    log: true,
  });
  #network = new Chart(byId("chart-network"), {
    lines: [
      { label: "received/s", colour: "teal" },
      { label: "sent/s", colour: "violet" },
    ],
    format: bytes,
    least: 1000,
  });

  constructor(private readonly history: History) {
    for (const side of SIDES) {
      for (const kind of KINDS) {
        const choose = () => {
          this.#chosen = { side, kind };
          this.#show();
        };
        const cells = ["rate", "failed", "p50", "p99", "total"].map(() => el("td", { class: "number" }));
        const press = el("button", { class: "link", on: { click: choose } }, `${SIDE_NAMES[side]} ${KIND_NAMES[kind]}`);
        const row = el("tr", { data: { line: `${side}.${kind}` } }, el("td", {}, press), ...cells);
        byId("breakdown").append(row);
        this.#lines.push({ side, kind, row, cells });
      }
    }
  }

  set(pods: Pod[]): void {
    this.#pods = pods;
    this.#show();
  }

  select(name: string): void {
    this.#selected = name;
    this.#chosen = null;
    this.#show();
  }

  redraw(): void {
    for (const chart of [this.#requests, this.#latency, this.#network]) chart.redraw();
  }

  #show(): void {
    const pods = this.#selected === ALL ? this.#pods : this.#pods.filter((pod) => label(pod) === this.#selected);
    setText(byId("detail-title"), this.#selected || "All pods");
    byId("unselect").hidden = this.#selected === ALL;
    byId("detail-gone").hidden = this.#selected === ALL || pods.length > 0;
    const connections = (side: Side) => pods.reduce((all, pod) => all + pod[side].connections, 0);
    setText(byId("detail-note"), `${connections("server")} connections in, ${connections("client")} out`);
    let busiest = { side: "server" as Side, kind: "http" as Kind, total: 0 };
    for (const { side, kind, row, cells } of this.#lines) {
      const of = (fact: Fact) => together(pods, side, kind, fact);
      const total = pods.reduce((all, pod) => all + pod[side][kind].total, 0);
      if (total > busiest.total) busiest = { side, kind, total };
      const failed = of("error_rate") ?? 0;
      const texts = [rate(of("rate")), failed > 0 ? share(failed, of("rate") ?? 0) : rate(of("error_rate")), seconds(of("p50_seconds")), seconds(of("p99_seconds")), rate(total)];
      cells.forEach((cell, at) => setText(cell, texts[at] ?? ""));
      cells[1]?.classList.toggle("bad", failed > 0);
      row.classList.toggle("idle", total === 0);
    }
    const { side, kind } = this.#chosen ?? busiest;
    for (const line of this.#lines) line.row.classList.toggle("selected", line.side === side && line.kind === kind);
    const what = `${SIDE_NAMES[side]} ${KIND_NAMES[kind]}`;
    setText(byId("requests-title"), `Requests: ${what}`);
    setText(byId("latency-title"), `Latency: ${what}${this.#selected === ALL ? " (slowest pod)" : ""}`);
    const times = this.history.times();
    const values = (fact: Fact) => this.history.values(this.#selected, `${side}.${kind}.${fact}`);
    this.#requests.set(times, [values("rate"), values("error_rate")]);
    this.#latency.set(times, [values("p50_seconds"), values("p99_seconds")]);
    this.#network.set(times, [this.history.values(this.#selected, "rx"), this.history.values(this.#selected, "tx")]);
  }
}
