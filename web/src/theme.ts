// Light and dark: as the system has it, until someone says otherwise.

import { byId, setText } from "./dom";

const CHOICES = ["auto", "light", "dark"] as const;
type Choice = (typeof CHOICES)[number];
const SIGNS: Record<Choice, string> = { auto: "◐", light: "☀", dark: "☾" };

const stored = (): Choice => {
  try {
    return CHOICES.find((choice) => choice === localStorage.getItem("theme")) ?? "auto";
  } catch {
    // A browser that keeps nothing still shows the page.
    return "auto";
  }
};

/** Calls back after each change of the colours. */
export function theme(changed: () => void): void {
  const button = byId("theme");
  const show = (choice: Choice) => {
    document.documentElement.dataset["theme"] = choice;
    setText(button, `${SIGNS[choice]} ${choice}`);
    button.title = `Colours: ${choice}. Press for ${CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length]}.`;
    changed();
  };
  let choice = stored();
  show(choice);
  button.addEventListener("click", () => {
    choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length] ?? "auto";
    try {
      localStorage.setItem("theme", choice);
    } catch {
      // Then it lasts as long as the page.
    }
    show(choice);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
}

const probes = new Map<string, HTMLElement>();

/** What a colour of page.css is at present, for canvases. */
export function colour(name: string): string {
  let probe = probes.get(name);
  if (!probe) {
    probe = document.createElement("i");
    probe.className = `probe ${name}`;
    document.body.append(probe);
    probes.set(name, probe);
  }
  return getComputedStyle(probe).color;
}
