// Compiles the contracts and writes artifact/NAME.json; `--check` compares the two instead, byte by byte.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import solc from "solc";

const here = dirname(fileURLToPath(import.meta.url));
const contracts = { OnionPay: "src/OnionPay.sol", Reenter: "test/Reenter.sol" };
const libraries = { OnionPay: ["src/Ticket.sol"] };
const check = process.argv.includes("--check");

function fail(message) {
  console.error(message);
  process.exit(1);
}

function compile(name, path) {
  const input = {
    language: "Solidity",
    sources: Object.fromEntries(
      [path, ...(libraries[name] ?? [])].map((file) => [file, { content: readFileSync(join(here, file), "utf8") }]),
    ),
    settings: {
      evmVersion: "shanghai",
      viaIR: true,
      optimizer: { enabled: true, runs: 1000000 },
      // Nothing but the code decides the bytes: no hash of comments, no trailer.
      metadata: { bytecodeHash: "none", appendCBOR: false },
      outputSelection: { [path]: { [name]: ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
    },
  };
  const output = JSON.parse(solc.compile(JSON.stringify(input)));
  if (output.errors) fail(output.errors.map((error) => error.formattedMessage).join("\n"));
  const { abi, evm } = output.contracts[path][name];
  const [bytecode, runtime] = [evm.bytecode, evm.deployedBytecode].map(({ object }) => "0x" + object);
  return JSON.stringify({ compiler: solc.version(), abi, bytecode, runtime }, null, 1) + "\n";
}

function read(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

for (const [name, path] of Object.entries(contracts)) {
  const built = compile(name, path);
  const artifact = join(here, "artifact", name + ".json");
  if (!check) {
    mkdirSync(dirname(artifact), { recursive: true });
    writeFileSync(artifact, built);
  } else if (read(artifact) !== built) {
    fail(
      `payments/contracts/artifact/${name}.json is not what solc ${solc.version()} makes of ${path}: ` +
        "run `npm ci --ignore-scripts && npm run build` in payments/contracts and commit the result",
    );
  }
  console.log(`${check ? "as committed" : "written"}: artifact/${name}.json`);
}
