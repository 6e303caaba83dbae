#!/usr/bin/env node
// Stands in for the native `solc` on top of the npm package, for what ape-solidity asks of it:
//   solc --version ; solc --standard-json [--base-path P] [--include-path P] [--allow-paths ..] < in.json
// Set-up links it as .solcx/solc-v0.8.30; it finds node_modules beside its own folder.
'use strict';
const fs = require('fs'), path = require('path');
const root = path.join(__dirname, '..', 'node_modules');
const argv = process.argv.slice(2);
const opt = (n) => { const i = argv.indexOf(n); return i >= 0 ? argv[i + 1] : undefined; };
const all = (n) => argv.flatMap((a, i) => (argv[i - 1] === n ? [a] : []));
const soljson = require(path.join(root, 'solc/soljson.js'));
const solc = require(path.join(root, 'solc/wrapper.js'))(soljson);
if (argv.includes('--version')) {
  process.stdout.write('solc, the solidity compiler commandline interface\nVersion: ' +
    solc.version().replace('.Emscripten.clang', '.Linux.g++') + '\n');
  process.exit(0);
}
if (!argv.includes('--standard-json')) {
  process.stderr.write('solc shim: only --version and --standard-json are supported\n');
  process.exit(1);
}
const jsonFile = argv[argv.indexOf('--standard-json') + 1];
const input = fs.readFileSync(jsonFile && !jsonFile.startsWith('-') ? jsonFile : 0, 'utf8');
const bases = [opt('--base-path') || '.', ...all('--include-path'), path.dirname(root)];
const findImports = (p) => {
  const clean = p.replace(/^file:\/\//, '');
  for (const b of ['', ...bases]) {
    const f = b === '' ? (path.isAbsolute(clean) ? clean : null) : path.join(b, clean);
    if (f && fs.existsSync(f)) return { contents: fs.readFileSync(f, 'utf8') };
  }
  return { error: 'File not found: ' + p };
};
process.stdout.write(solc.compile(input, { import: findImports }), () => process.exit(0));
