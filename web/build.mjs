// Bundles src/ into dist/, which is part of the tree: building Weir itself needs neither node nor npm.
//
// dist/SHA256SUMS names all sources and outputs with their hashes, so that a test tells whether one
// was changed without the other. `node build.mjs --check` bundles, changes nothing, and fails where dist/ is
// another: sums that someone wrote by hand don't help there.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { basename } from "node:path";
import { build } from "esbuild";

const licence = (name, file) =>
  `${name} ${JSON.parse(readFileSync(`node_modules/${name}/package.json`)).version}\n\n` +
  readFileSync(`node_modules/${name}/${file}`, "utf8").trim();
const libraries = [
  licence("uplot", "LICENSE"),
  licence("@dagrejs/dagre", "LICENSE"),
  licence("@dagrejs/graphlib", "LICENSE"),
];
const notice = `/*!\nThis file contains, besides Weir's own code:\n\n${libraries.join("\n\n----\n\n")}\n*/`;

const result = await build({
  entryPoints: { page: "src/main.ts" },
  outdir: "dist",
  bundle: true,
  minify: true,
  format: "iife",
  target: ["chrome123", "firefox128", "safari17.5"],
  legalComments: "none",
  charset: "utf8",
  banner: { js: notice, css: `/*!\n${libraries[0]}\n*/` },
  metafile: true,
  write: false,
});
const outputs = new Map(result.outputFiles.map(({ path, contents }) => [`dist/${basename(path)}`, Buffer.from(contents)]));
outputs.set("dist/index.html", readFileSync("src/index.html"));

// Every package in the bundle has to be named in the notice.
for (const input of Object.keys(result.metafile.inputs)) {
  const name = input.match(/^node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1];
  if (name && !notice.includes(`\n${name} `)) throw new Error(`${name} is bundled without a notice`);
}

const fixed = ["build.mjs", "package-lock.json", "package.json", "tsconfig.json"];
const within = (dir) => readdirSync(dir).map((name) => `${dir}/${name}`);
const files = [...fixed, ...within("src"), ...outputs.keys()].sort();
const sum = (file) => createHash("sha256").update(outputs.get(file) ?? readFileSync(file)).digest("hex");
outputs.set("dist/SHA256SUMS", Buffer.from(files.map((file) => `${sum(file)}  ${file}\n`).join("")));

mkdirSync("dist", { recursive: true });
const there = within("dist");
const stale = there.filter((file) => !outputs.has(file));
// What is the same stays as it is: Cargo builds anew whatever was written.
const changed = [...outputs.keys()].filter((file) => !there.includes(file) || !readFileSync(file).equals(outputs.get(file)));
if (process.argv.includes("--check")) {
  if (stale.length + changed.length) throw new Error(`not what the sources make: ${[...stale, ...changed].join(", ")}; \`make web\` makes it`);
} else {
  for (const file of stale) rmSync(file);
  for (const file of changed) writeFileSync(file, outputs.get(file));
  for (const [file, content] of outputs) console.log(`${content.length}\t${file}`);
}
