#!/usr/bin/env node
// The compiler of the npm package as the program that slither calls: `slither src/OnionPay.sol --solc ./slither.mjs`.
import { readFileSync } from "node:fs";
import solc from "solc";

const [path] = process.argv.slice(2);
if (path === "--version") {
  console.log(`solc, the solidity compiler\nVersion: ${solc.version()}`);
  process.exit(0);
}
const sources = { [path]: { content: readFileSync(path, "utf8") } };
const input = {
  language: "Solidity",
  sources,
  settings: {
    evmVersion: "shanghai",
    viaIR: true,
    optimizer: { enabled: true, runs: 1000000 },
    outputSelection: { "*": { "*": ["abi", "evm", "userdoc", "devdoc"], "": ["ast"] } },
  },
};
const find = (name) => {
  try {
    return { contents: readFileSync(name, "utf8") };
  } catch (error) {
    return { error: error.message };
  }
};
const output = JSON.parse(solc.compile(JSON.stringify(input), { import: find }));
const errors = (output.errors ?? []).filter((error) => error.severity === "error");
if (errors.length > 0) {
  console.error(errors.map((error) => error.formattedMessage).join("\n"));
  process.exit(1);
}
const contracts = {};
for (const [file, named] of Object.entries(output.contracts)) {
  for (const [name, { abi, evm, userdoc, devdoc }] of Object.entries(named)) {
    contracts[`${file}:${name}`] = {
      abi,
      bin: evm.bytecode.object,
      "bin-runtime": evm.deployedBytecode.object,
      srcmap: evm.bytecode.sourceMap,
      "srcmap-runtime": evm.deployedBytecode.sourceMap,
      hashes: evm.methodIdentifiers,
      userdoc,
      devdoc,
    };
  }
}
const asts = Object.fromEntries(Object.entries(output.sources).map(([file, { ast }]) => [file, { AST: ast }]));
console.log(JSON.stringify({ contracts, sources: asts, sourceList: Object.keys(asts), version: solc.version() }));
