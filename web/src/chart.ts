// The plots, by uPlot.

import uPlot from "uplot";
import { colour } from "./theme";

export interface Line {
  label: string;
  /** A class of page.css that has the colour. */
  colour: string;
  fill?: boolean;
}

export interface Kind {
  lines: Line[];
  format: (value: number | null) => string;
  /** Times spread over decades. */
  log?: boolean;
  /** What the axis reaches at least. */
  least?: number;
}

/** Seconds that are shown: as long as the page looks on, within these bounds. */
const WINDOW = { least: 60, most: 300 };
const FONT = "11px system-ui, sans-serif";

function series(line: Line, format: Kind["format"]): uPlot.Series {
  return {
    label: line.label,
    stroke: () => colour(line.colour),
    width: 1.5,
    points: { show: false },
    spanGaps: false,
    value: (_, value: number | null) => format(value),
    ...(line.fill ? { fill: () => colour(`${line.colour}-faint`) } : {}),
  };
}

function span(first: number | null, last: number | null): [number, number] {
  const end = last ?? Date.now() / 1000;
  return [end - Math.min(Math.max(end - (first ?? end), WINDOW.least), WINDOW.most), end];
}

const fromZero =
  (least: number) =>
  (_: uPlot, __: number | null, max: number | null): [number, number] => [0, Math.max((max ?? 0) * 1.15, least)];

/** Whole decades around the data. */
function decades(_: uPlot, min: number | null, max: number | null): [number, number] {
  if (!min || !max || min <= 0) return [0.001, 1];
  return [10 ** Math.floor(Math.log10(min)), 10 ** Math.ceil(Math.log10(max * 1.01))];
}

/** A line per decade. */
function powers(_: uPlot, __: number, min: number, max: number): number[] {
  const first = Math.round(Math.log10(min));
  return Array.from({ length: Math.round(Math.log10(max)) - first + 1 }, (_, at) => 10 ** (first + at));
}

/** A plot of the last minutes in `parent`, as wide as that is. */
export class Chart {
  #plot: uPlot;

  constructor(
    parent: HTMLElement,
    private readonly kind: Kind,
  ) {
    const axis = { stroke: () => colour("muted"), font: FONT, ticks: { show: false }, grid: { stroke: () => colour("rule"), width: 1 } };
    this.#plot = new uPlot(
      {
        width: parent.clientWidth || 300,
        height: 150,
        padding: [8, 8, 0, 0],
        cursor: { sync: { key: "time" }, drag: { x: false, y: false }, points: { size: 6 } },
        legend: { live: true },
        scales: {
          x: { time: true, range: (_, first, last) => span(first, last) },
          y: kind.log ? { distr: 3, range: decades } : { range: fromZero(kind.least ?? 1) },
        },
        series: [{ value: "{HH}:{mm}:{ss}", label: "" }, ...kind.lines.map((line) => series(line, kind.format))],
        axes: [
          { ...axis, size: 24, space: 90, values: "{HH}:{mm}:{ss}", grid: { show: false } },
          { ...axis, size: 58, space: 28, ...(kind.log ? { splits: powers } : {}), values: (_, splits) => splits.map((value) => (value === null ? "" : kind.format(value))) },
        ],
      },
      [[], ...kind.lines.map(() => [])],
      parent,
    );
    new ResizeObserver(() => this.#plot.setSize({ width: parent.clientWidth, height: 150 })).observe(parent);
  }

  set(times: number[], lines: (number | null)[][]): void {
    this.#plot.setData([times, ...lines]);
    // Where nobody points, the legend tells of now.
    if ((this.#plot.cursor.idx ?? null) === null) this.#plot.setLegend({ idx: times.length - 1 });
  }

  /** In the colours of now. */
  redraw(): void {
    this.#plot.redraw(false, true);
    // The legend's marks are elements, which uPlot colours once.
    this.#plot.root.querySelectorAll<HTMLElement>(".u-series:not(:first-child) .u-marker").forEach((mark, at) => {
      mark.style.borderColor = colour(this.kind.lines[at]?.colour ?? "muted");
      mark.style.background = "transparent";
    });
  }
}

/** A line without axes, for a cell of a table. */
export class Spark {
  readonly element = document.createElement("div");
  #plot: uPlot;

  constructor() {
    this.element.className = "spark";
    this.#plot = new uPlot(
      {
        width: 84,
        height: 24,
        padding: [2, 0, 2, 0],
        cursor: { show: false },
        legend: { show: false },
        scales: { x: { time: false, range: (_, __, max) => [(max ?? 0) - 60, max ?? 0] }, y: { range: fromZero(0.1) } },
        axes: [{ show: false }, { show: false }],
        series: [{}, series({ label: "", colour: "blue", fill: true }, String)],
      },
      [[], []],
      this.element,
    );
  }

  set(times: number[], values: (number | null)[]): void {
    this.#plot.setData([times, values]);
  }

  /** Nothing else ends it: the window and a media query know every plot, and with it its canvas and its cell. */
  destroy(): void {
    this.#plot.destroy();
    this.element.remove();
  }
}
