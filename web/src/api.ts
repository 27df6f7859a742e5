// What the agent answers (docs/operate.md), and how to keep asking it.

export interface Exchanges {
  total: number;
  errors: number;
  rate: number | null;
  error_rate: number | null;
  p50_seconds: number | null;
  p99_seconds: number | null;
}

export const KINDS = ["http", "dns", "db"] as const;
export type Kind = (typeof KINDS)[number];

export const SIDES = ["server", "client"] as const;
export type Side = (typeof SIDES)[number];

export type PodSide = Record<Kind, Exchanges> & { connections: number };

export interface Pod {
  namespace: string;
  pod: string;
  counted: boolean;
  server: PodSide;
  client: PodSide;
  network: { rx_bytes: number; tx_bytes: number; rx_rate: number | null; tx_rate: number | null };
}

export interface Overview {
  interval_seconds: number | null;
  pods: Pod[];
}

export interface Name {
  namespace: string;
  pod: string;
}

export interface Edge {
  from: Name | null;
  to: Name | null;
  protocol: string;
  rate: number;
  error_rate: number;
  p50_seconds: number | null;
  p99_seconds: number | null;
}

export interface ServiceMap {
  interval_seconds: number;
  edges: Edge[];
  left_out: number;
}

export interface Flow {
  time: string;
  namespace: string;
  pod: string;
  role: string;
  protocol: string;
  version?: string;
  method?: string;
  path?: string;
  host?: string;
  status?: number;
  error?: string;
  grpc_status?: string;
  name?: string;
  qtype?: string;
  rcode?: string;
  tls_version?: string;
  operation?: string;
  outcome?: string;
  server_name?: string;
  duration_seconds?: number;
  peer?: string;
  peer_namespace?: string;
  peer_pod?: string;
  trace_id?: string;
  /** As the agent counts failures; left out where it is none. */
  failed?: true;
}

/** As the agent writes and reads it in a filter: Kubernetes has no slash in a name, but others who call a plugin may. */
const part = (text: string): string => text.replaceAll("%", "%25").replaceAll("/", "%2F");

/** How a pod is called everywhere; no two are called the same. */
export const label = (name: Name): string =>
  name.namespace ? `${part(name.namespace)}/${part(name.pod)}` : part(name.pod);

/** Whether things are as they should be, and if not, why. */
export type Health = (state: "live" | "waiting" | "broken", why: string) => void;

const EVERY_MS = 1000;
const PATIENCE_MS = 8000;
const SILENT = "the agent does not answer";

/** Asks for the pods once a second while somebody looks. */
export function pollPods(got: (overview: Overview) => void, health: Health): void {
  const ask = async () => {
    if (!document.hidden) {
      try {
        const overview = await askOnce();
        health("live", "");
        got(overview);
      } catch (error) {
        // What `got` throws is a fault of this page, and no word about the agent.
        if (error instanceof Unanswered) health("broken", error.message);
        else reportError(error);
      }
    }
    setTimeout(ask, EVERY_MS);
  };
  void ask();
}

class Unanswered extends Error {}

async function askOnce(): Promise<Overview> {
  let answer: Response;
  let text: string;
  try {
    answer = await fetch("api/pods", { signal: AbortSignal.timeout(PATIENCE_MS), cache: "no-store" });
    text = await answer.text();
  } catch {
    throw new Unanswered(SILENT);
  }
  if (!answer.ok) throw new Unanswered(text.trim() || `the agent answers with ${answer.status}`);
  try {
    return JSON.parse(text) as Overview;
  } catch {
    throw new Unanswered("what answers here is no agent");
  }
}

/**
 * Listens to events while somebody looks: nobody else should pay for the records that they are made of.
 * A stream that was refused says why, and is asked for again. One that broke off, or that nobody looked at
 * for a while, goes on behind the last event that it had.
 */
export class Stream {
  #source: EventSource | null = null;
  #retry: ReturnType<typeof setTimeout> | undefined;
  /** The id of the last event, or empty. */
  #had = "";

  constructor(
    private url: string,
    private readonly take: (data: string) => void,
    private readonly health: Health,
    private readonly lost: (data: string) => void = () => {},
  ) {
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#close() : this.#open()));
    // A page that waits to be gone back to would hold its place among the listeners.
    addEventListener("pagehide", () => this.#close());
    addEventListener("pageshow", () => this.#source ?? this.#open());
  }

  /** Begins, or begins anew with another question. */
  begin(url = this.url): void {
    this.url = url;
    this.#had = "";
    this.#open();
  }

  /** What the browser asks by itself when it comes back to a stream; asked anew, it has to be told. */
  #question(): string {
    if (!this.#had) return this.url;
    return `${this.url}${this.url.includes("?") ? "&" : "?"}after=${encodeURIComponent(this.#had)}`;
  }

  #open(): void {
    this.#close();
    if (document.hidden) return;
    this.health("waiting", "");
    const source = new EventSource(this.#question());
    this.#source = source;
    source.onopen = () => this.health("live", "");
    source.onmessage = (event: MessageEvent<string>) => {
      this.#had = event.lastEventId;
      this.take(event.data);
    };
    source.addEventListener("lost", (event) => this.lost((event as MessageEvent<string>).data));
    source.onerror = () => {
      this.health("waiting", "");
      // The browser comes back to a stream that ended; to one that was refused it does not.
      if (source.readyState === EventSource.CLOSED) void this.#refused(source);
    };
  }

  #close(): void {
    clearTimeout(this.#retry);
    this.#source?.close();
    this.#source = null;
  }

  async #refused(source: EventSource): Promise<void> {
    const asked = new AbortController();
    let retry = true;
    let why = SILENT;
    try {
      const answer = await fetch(this.#question(), { signal: asked.signal });
      why = answer.ok ? "" : (await answer.text()).trim();
      retry = answer.status !== 400;
    } catch {
      // As said above.
    }
    asked.abort();
    if (this.#source !== source) return;
    if (why) this.health("broken", why);
    if (retry) this.#retry = setTimeout(() => this.#open(), 2000);
  }
}
