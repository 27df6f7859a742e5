// The page: one selection, and everything that shows it.

import "uplot/dist/uPlot.min.css";
import "./page.css";
import { SIDES, Stream, pollPods, type Health, type Overview, type ServiceMap } from "./api";
import { Detail } from "./detail";
import { byId, setText } from "./dom";
import { Flows } from "./flows";
import { bytes, rate, seconds, share } from "./format";
import { History, most, sum } from "./history";
import { ServiceGraph } from "./map";
import { Pods, total } from "./pods";
import { theme } from "./theme";

const HASH = "#pod=";

/** What the dot in the corner tells: the worst of what is known of each source. */
const states = new Map<string, { state: Parameters<Health>[0]; why: string }>();

function healthOf(source: string): Health {
  return (state, why) => {
    states.set(source, { state, why });
    const all = [...states.values()];
    const worst = all.find((one) => one.state === "broken") ?? all.find((one) => one.state === "waiting") ?? all[0];
    const dot = byId("health");
    dot.className = worst?.state ?? "waiting";
    setText(dot, worst?.state === "broken" ? worst.why : (worst?.state ?? "waiting"));
  };
}

function tiles({ pods }: Overview): void {
  const uncounted = pods.filter((pod) => !pod.counted).length;
  setText(byId("tile-pods"), String(pods.length));
  setText(byId("tile-pods-note"), uncounted ? `${uncounted} not counted` : pods.length ? "all counted" : "none yet");
  byId("tile-pods-note").classList.toggle("bad", uncounted > 0);
  for (const side of SIDES) {
    const totals = pods.map((pod) => total(pod[side]));
    const [all, errors] = [sum(totals.map((one) => one.rate)), sum(totals.map((one) => one.errors))];
    setText(byId(`tile-${side}`), rate(all));
    const failing = (errors ?? 0) > 0;
    setText(byId(`tile-${side}-note`), failing ? `${share(errors ?? 0, all ?? 0)} failed` : "none failed");
    byId(`tile-${side}-note`).classList.toggle("bad", failing);
    setText(byId(`tile-${side}-p99`), seconds(most(totals.map((one) => one.p99))));
  }
  setText(byId("tile-rx"), bytes(sum(pods.map((pod) => pod.network.rx_rate))));
  setText(byId("tile-tx"), bytes(sum(pods.map((pod) => pod.network.tx_rate))));
}

function main(): void {
  // Asked first: the agent answers while all below is made.
  pollPods((overview) => {
    history.add(overview, Date.now() / 1000);
    tiles(overview);
    pods.set(overview.pods);
    detail.set(overview.pods);
  }, healthOf("pods"));
  const history = new History();
  const choose = (name: string) => {
    location.hash = name ? HASH + encodeURIComponent(name) : "";
  };
  const pods = new Pods(history, choose);
  const detail = new Detail(history);
  const graph = new ServiceGraph(choose);
  const flows = new Flows(choose, healthOf("flows"));
  const services = new Stream("api/services", (data) => graph.set(JSON.parse(data) as ServiceMap), healthOf("map"));

  const follow = () => {
    let name = "";
    try {
      name = location.hash.startsWith(HASH) ? decodeURIComponent(location.hash.slice(HASH.length)) : "";
    } catch {
      // A link that someone cut off selects nothing.
    }
    pods.mark(name);
    detail.select(name);
    graph.mark(name);
    flows.only(name);
  };
  // A fault of the page's own is told as one; what has no error is a remark of the browser's.
  addEventListener("error", ({ error }) => {
    if (error instanceof Error) healthOf("page")("broken", `this page failed (${error.message}): load it anew`);
  });
  addEventListener("hashchange", follow);
  byId("unselect").addEventListener("click", () => choose(""));
  theme(() => {
    pods.redraw();
    detail.redraw();
  });
  setText(byId("node"), location.host);
  follow();
  flows.begin();
  services.begin();
}

main();
