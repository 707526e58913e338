// Compiles registry.fc to registry.boc and registry.hash; with --check compares instead of writing.
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { compileFunc, compilerVersion } from "@ton-community/func-js";

const here = dirname(fileURLToPath(import.meta.url));
const read = (name) => readFileSync(join(here, name), "utf8");

const { funcVersion } = await compilerVersion();
if (funcVersion !== "0.4.6") {
  console.error(`FunC 0.4.6 is needed, this is ${funcVersion}: run npm install in contracts/`);
  process.exit(1);
}
const result = await compileFunc({ targets: ["registry.fc"], sources: read });
if (result.status === "error") {
  console.error(result.message);
  process.exit(1);
}
if (result.warnings) console.error(result.warnings);
const boc = Buffer.from(result.codeBoc, "base64");
const hash = result.codeHashHex.toLowerCase();

if (process.argv.includes("--check")) {
  const same = boc.equals(readFileSync(join(here, "registry.boc"))) && hash === read("registry.hash").trim();
  console.log(JSON.stringify({ same, hash }));
  process.exit(same ? 0 : 1);
}
writeFileSync(join(here, "registry.boc"), boc);
writeFileSync(join(here, "registry.hash"), hash + "\n");
console.log(JSON.stringify({ bytes: boc.length, hash }));
