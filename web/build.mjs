// Bundles src/ into dist/, which is part of the tree: building Weir itself needs neither node nor npm.
//
// dist/SHA256SUMS names all sources and outputs with their hashes, so that a test tells whether one
// was changed without the other.
import { createHash } from "node:crypto";
import { cpSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
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

rmSync("dist", { recursive: true, force: true });
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
});
cpSync("src/index.html", "dist/index.html");

// Every package in the bundle has to be named in the notice.
for (const input of Object.keys(result.metafile.inputs)) {
  const name = input.match(/^node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1];
  if (name && !notice.includes(`\n${name} `)) throw new Error(`${name} is bundled without a notice`);
}

const fixed = ["build.mjs", "package-lock.json", "package.json", "tsconfig.json"];
const within = (dir) => readdirSync(dir).map((name) => `${dir}/${name}`);
const files = [...fixed, ...within("src"), ...within("dist")].sort();
const sum = (file) => createHash("sha256").update(readFileSync(file)).digest("hex");
writeFileSync("dist/SHA256SUMS", files.map((file) => `${sum(file)}  ${file}\n`).join(""));
for (const file of within("dist")) console.log(`${readFileSync(file).length}\t${file}`);
