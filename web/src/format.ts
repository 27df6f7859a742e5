// Numbers as people read them at a glance: three digits and a unit.

const UNITS = ["", "k", "M", "G", "T"];

function scaled(value: number): string {
  let at = 0;
  while (Math.abs(value) >= 999.5 && at < UNITS.length - 1) {
    value /= 1000;
    at += 1;
  }
  const digits = Math.abs(value) < 9.95 && (at > 0 || !Number.isInteger(value)) ? 1 : 0;
  return value.toFixed(digits) + UNITS[at];
}

/** What is not known. */
export const UNKNOWN = "–";

const known = (value: number | null | undefined): value is number =>
  value !== null && value !== undefined && Number.isFinite(value);

/** Of a rate per second; what is rarer than once in twenty seconds is not nothing. */
export function rate(value: number | null | undefined): string {
  if (!known(value)) return UNKNOWN;
  return value > 0 && value < 0.05 ? "<0.1" : scaled(value);
}

/** Bytes (a second), by powers of ten. */
export function bytes(value: number | null | undefined): string {
  return known(value) ? scaled(Math.round(value)).replace(/[kMGT]?$/, " $&B") : UNKNOWN;
}

/** Of a time in seconds. */
export function seconds(value: number | null | undefined): string {
  if (!known(value)) return UNKNOWN;
  const three = (number: number) => (number >= 99.95 ? number.toFixed(0) : number >= 9.995 ? number.toFixed(1) : number.toFixed(2));
  if (value >= 0.9995) return `${three(value)} s`;
  if (value >= 0.0009995) return `${three(value * 1e3)} ms`;
  return `${(value * 1e6).toFixed(0)} µs`;
}

/** A share of one. */
export function share(part: number, whole: number): string {
  if (whole <= 0 || part <= 0) return "0 %";
  const hundredths = (100 * part) / whole;
  return hundredths < 0.1 ? "<0.1 %" : `${hundredths.toFixed(hundredths < 10 ? 1 : 0)} %`;
}

/** The local time of an RFC 3339 time, to the millisecond. */
export function clock(time: string): string {
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return time;
  const two = (number: number) => String(number).padStart(2, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}
