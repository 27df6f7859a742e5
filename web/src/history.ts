// The last minutes of every pod, as seen by this page: one number a second and series.

import { KINDS, SIDES, label, type Kind, type Overview, type Pod, type Side } from "./api";

/** Seconds that are kept. */
const LENGTH = 300;

/** After so many seconds without an answer nobody knows what was in between. */
const GAP = 3;

const FACTS = ["rate", "error_rate", "p50_seconds", "p99_seconds"] as const;
export type Fact = (typeof FACTS)[number];

/** Of one side and kind, or of the network. */
export type Series = `${Side}.${Kind}.${Fact}` | "rx" | "tx";

const SERIES = [
  ...SIDES.flatMap((side) => KINDS.flatMap((kind) => FACTS.map((fact) => `${side}.${kind}.${fact}` as Series))),
  "rx",
  "tx",
] as Series[];
const PLACE = new Map(SERIES.map((series, at) => [series, at]));

/** The name of all pods together, which no pod has. */
export const ALL = "";

/** Rings of numbers, all written at the same place; NaN where nothing is known. */
export class History {
  #times = new Float64Array(LENGTH).fill(NaN);
  #pods = new Map<string, Float32Array>();
  #next = 0;

  add(overview: Overview, at: number): void {
    const there = new Set([ALL]);
    const last = this.#times[(this.#next - 1 + LENGTH) % LENGTH] ?? NaN;
    if (at - last > GAP) {
      this.#blank((last + at) / 2);
      this.#turn();
    }
    this.#blank(at);
    for (const pod of overview.pods) {
      there.add(label(pod));
      this.#write(label(pod), (side, kind, fact) => pod[side][kind][fact], pod.network.rx_rate, pod.network.tx_rate);
    }
    this.#write(ALL, (side, kind, fact) => together(overview.pods, side, kind, fact),
      sum(overview.pods.map((pod) => pod.network.rx_rate)), sum(overview.pods.map((pod) => pod.network.tx_rate)));
    for (const name of this.#pods.keys()) if (!there.has(name)) this.#pods.delete(name);
    this.#turn();
  }

  /** Seconds since the epoch, oldest first. */
  times(last = LENGTH): number[] {
    return this.#unroll(this.#times, 0, last).map((time) => time ?? NaN);
  }

  /** As long as [`times`]. */
  values(pod: string, series: Series, last = LENGTH): (number | null)[] {
    const ring = this.#pods.get(pod);
    return ring ? this.#unroll(ring, (PLACE.get(series) ?? 0) * LENGTH, last) : new Array<null>(this.#count(last)).fill(null);
  }

  #turn(): void {
    this.#next = (this.#next + 1) % LENGTH;
  }

  /** A second of which nothing is known: lines break there. */
  #blank(at: number): void {
    this.#times[this.#next] = at;
    for (const ring of this.#pods.values()) for (let s = 0; s < SERIES.length; s += 1) ring[s * LENGTH + this.#next] = NaN;
  }

  #count(last: number): number {
    const kept = this.#times.reduce((count, time) => count + (Number.isNaN(time) ? 0 : 1), 0);
    return Math.min(kept, last);
  }

  #unroll(ring: Float32Array | Float64Array, from: number, last: number): (number | null)[] {
    const count = this.#count(last);
    return Array.from({ length: count }, (_, at) => {
      const value = ring[from + ((this.#next - count + at + LENGTH) % LENGTH)];
      return value === undefined || Number.isNaN(value) ? null : value;
    });
  }

  #write(name: string, value: (side: Side, kind: Kind, fact: Fact) => number | null, rx: number | null, tx: number | null): void {
    let ring = this.#pods.get(name);
    if (!ring) this.#pods.set(name, (ring = new Float32Array(SERIES.length * LENGTH).fill(NaN)));
    const set = (series: Series, number: number | null) => (ring[(PLACE.get(series) ?? 0) * LENGTH + this.#next] = number ?? NaN);
    for (const side of SIDES) for (const kind of KINDS) for (const fact of FACTS) set(`${side}.${kind}.${fact}`, value(side, kind, fact));
    set("rx", rx);
    set("tx", tx);
  }
}

/** Of several pods: rates add up, and the slowest pod's quantile is shown. */
export function together(pods: Pod[], side: Side, kind: Kind, fact: Fact): number | null {
  const values = pods.map((pod) => pod[side][kind][fact]);
  return fact === "rate" || fact === "error_rate" ? sum(values) : most(values);
}

/** Of what is known; null if that is nothing. */
export function sum(values: (number | null)[]): number | null {
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((all, value) => all + value, 0) : null;
}

/** The same for the greatest. */
export function most(values: (number | null)[]): number | null {
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((all, value) => Math.max(all, value)) : null;
}
