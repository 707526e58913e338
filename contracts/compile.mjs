// Compiles each contract to its .boc and .hash; with --check compares instead of writing.
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

const contracts = ["channel", "registry", "vault"];
const checking = process.argv.includes("--check");
let same = true;
const hashes = {};
for (const name of contracts) {
  const result = await compileFunc({ targets: [`${name}.fc`], sources: read });
  if (result.status === "error") {
    console.error(result.message);
    process.exit(1);
  }
  if (result.warnings) console.error(result.warnings);
  const boc = Buffer.from(result.codeBoc, "base64");
  const hash = (hashes[name] = result.codeHashHex.toLowerCase());
  if (checking) {
    same &&= boc.equals(readFileSync(join(here, `${name}.boc`))) && hash === read(`${name}.hash`).trim();
  } else {
    writeFileSync(join(here, `${name}.boc`), boc);
    writeFileSync(join(here, `${name}.hash`), hash + "\n");
  }
}
console.log(JSON.stringify({ same, hashes }));
process.exit(same ? 0 : 1);
