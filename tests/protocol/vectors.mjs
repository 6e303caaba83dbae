// Checks the golden vectors with viem and an implementation of its own. Prints how many checks passed; any
// difference is an error. Run: node tests/protocol/vectors.mjs [vectors.json]
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import {
  concat,
  domainSeparator,
  encodeAbiParameters,
  hashStruct,
  hashTypedData,
  keccak256,
  numberToHex,
  parseAbiParameters,
  recoverTypedDataAddress,
  serializeCompactSignature,
  parseSignature,
  signatureToCompactSignature,
  stringToHex,
} from "viem";
import { privateKeyToAccount } from "viem/accounts";

const path = process.argv[2] ?? new URL("vectors.json", import.meta.url);
const vectors = JSON.parse(readFileSync(path, "utf8"));
const ZERO = numberToHex(0, { size: 32 });
let checks = 0;

function same(actual, expected, what) {
  assert.equal(actual, expected, what);
  checks += 1;
}

const types = Object.fromEntries(
  vectors.types.map(({ name, type, typeHash }) => {
    same(keccak256(stringToHex(type)), typeHash, `type hash of ${name}`);
    const members = type.slice(type.indexOf("(") + 1, -1).split(",");
    return [name, members.map((member) => ({ type: member.split(" ")[0], name: member.split(" ")[1] }))];
  }),
);

function domainOf({ chainId, escrow }) {
  return { ...vectors.domain, chainId: BigInt(chainId), verifyingContract: escrow };
}

for (const entry of vectors.domains) {
  same(domainSeparator({ domain: domainOf(entry) }), entry.separator, `separator on ${entry.chainId}`);
}

for (const entry of vectors.messages) {
  const { name, primaryType, signature } = entry;
  const message = Object.fromEntries(
    types[primaryType].map((member) => {
      const value = entry.message[member.name];
      return [member.name, member.type.startsWith("uint") ? BigInt(value) : value];
    }),
  );
  const used = { [primaryType]: types[primaryType] };
  const typedData = { domain: domainOf(entry), types: used, primaryType, message };
  same(hashStruct({ data: message, primaryType, types: used }), entry.structHash, `${name}: struct hash`);
  same(hashTypedData(typedData), entry.digest, `${name}: digest`);
  const account = privateKeyToAccount(entry.privateKey);
  same(account.address, entry.signer, `${name}: signer`);
  same(await account.signTypedData(typedData), signature.wire, `${name}: signature`);
  same(await recoverTypedDataAddress({ ...typedData, signature: signature.wire }), entry.signer, `${name}: recovered`);
  const parts = parseSignature(signature.wire);
  same(parts.r, signature.r, `${name}: r`);
  same(parts.s, signature.s, `${name}: s`);
  same(Number(parts.v), signature.v, `${name}: v`);
  const compact = serializeCompactSignature(signatureToCompactSignature(parts));
  same(compact, concat([signature.r, signature.vs]), `${name}: compact signature`);
  const fields = types[primaryType].map((member) => `${member.name}=${entry.message[member.name]}`);
  same([...fields, `signature=${signature.wire}`].join(";"), entry.text, `${name}: text`);
}

const LEASE = parseAbiParameters("uint256, address, address, uint64, uint32, uint32, uint32, address, bytes32");
for (const entry of vectors.leaseIds) {
  const encoded = encodeAbiParameters(LEASE, [
    BigInt(entry.chainId),
    entry.escrow,
    entry.owner,
    BigInt(entry.nonce),
    Number(entry.provider),
    Number(entry.offerId),
    Number(entry.version),
    entry.signer,
    entry.termsDigest,
  ]);
  same(keccak256(encoded), entry.leaseId, "lease id");
}

const CONTEXT = parseAbiParameters("uint64, bytes32, uint128, uint64");
for (const { seq, requestHash, maxCost, sentAt, context } of vectors.contexts) {
  const encoded = encodeAbiParameters(CONTEXT, [BigInt(seq), requestHash, BigInt(maxCost), BigInt(sentAt)]);
  same(keccak256(encoded), context, "voucher context");
}

for (const { salt, route, body, requestHash } of vectors.requestHashes) {
  same(keccak256(concat([salt, stringToHex(`${route}\n`), body])), requestHash, "request hash");
}

const leafHash = (digest) => keccak256(concat(["0x00", digest]));
const nodeHash = (left, right) => keccak256(concat(["0x01", left, right]));
const bag = (peaks) => peaks.reduceRight((right, peak) => (right === null ? peak : nodeHash(peak, right)), null);
const seal = (count, bagged) => keccak256(concat(["0x02", numberToHex(count, { size: 8 }), bagged]));

function sizes(count) {
  const row = [];
  for (let rest = count; rest > 0; rest -= row.at(-1)) row.push(2 ** Math.floor(Math.log2(rest)));
  return row;
}

function perfect(leaves) {
  if (leaves.length === 1) return leafHash(leaves[0]);
  const half = leaves.length / 2;
  return nodeHash(perfect(leaves.slice(0, half)), perfect(leaves.slice(half)));
}

function rootOf(digests) {
  if (digests.length === 0) return ZERO;
  let from = 0;
  const peaks = sizes(digests.length).map((size) => perfect(digests.slice(from, (from += size))));
  return seal(digests.length, bag(peaks));
}

function rootFromProof(digest, index, count, proof) {
  const items = [...proof];
  const mountains = sizes(count);
  let start = 0;
  let at = 0;
  while (index >= start + mountains[at]) start += mountains[at++];
  let node = leafHash(digest);
  for (let size = mountains[at], place = index - start; size > 1; size /= 2, place = Math.floor(place / 2)) {
    const sibling = items.shift();
    node = place % 2 === 1 ? nodeHash(sibling, node) : nodeHash(node, sibling);
  }
  if (at < mountains.length - 1) node = nodeHash(node, items.shift());
  for (let left = 0; left < at; left += 1) node = nodeHash(items.shift(), node);
  assert.equal(items.length, 0, "length of an inclusion proof");
  return seal(count, node);
}

function rootsFromConsistency(oldCount, newCount, proof) {
  const row = sizes(oldCount);
  const oldRoot = oldCount === 0 ? ZERO : seal(oldCount, bag(proof.slice(0, row.length)));
  for (let position = oldCount; position < newCount; position += row.at(-1)) {
    let size = 1;
    while (position % (size * 2) === 0 && position + size * 2 <= newCount) size *= 2;
    row.push(size);
  }
  assert.equal(proof.length, row.length, "length of a consistency proof");
  const stack = [];
  row.forEach((size, item) => {
    let top = { size, node: proof[item] };
    while (stack.length > 0 && stack.at(-1).size === top.size) {
      top = { size: top.size * 2, node: nodeHash(stack.pop().node, top.node) };
    }
    stack.push(top);
  });
  return [oldRoot, seal(newCount, bag(stack.map(({ node }) => node)))];
}

const { leafDigests, roots, inclusion, consistency } = vectors.merkle;
roots.forEach((root, count) => same(rootOf(leafDigests.slice(0, count)), root, `root of ${count} leaves`));
for (const { index, count, proof, root } of inclusion) {
  const leaf = leafDigests[Number(index)];
  same(rootFromProof(leaf, Number(index), Number(count), proof), root, `inclusion of ${index} in ${count}`);
}
for (const { oldCount, oldRoot, newCount, newRoot, proof } of consistency) {
  const found = rootsFromConsistency(Number(oldCount), Number(newCount), proof);
  same(found[0], oldRoot, `consistency ${oldCount} to ${newCount}: old root`);
  same(found[1], newRoot, `consistency ${oldCount} to ${newCount}: new root`);
}

for (const { tokens, root } of vectors.responses) {
  const words = tokens.map(([token, logprob]) =>
    concat([
      numberToHex(0, { size: 24 }),
      numberToHex(BigInt(token), { size: 4 }),
      numberToHex(BigInt(logprob), { size: 4, signed: true }),
    ]),
  );
  same(rootOf(words), root, "response root");
}

function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const members = Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`);
  return `{${members.join(",")}}`;
}

for (const { document, canonical: bytes, digest, modelFingerprint } of vectors.documents) {
  same(stringToHex(canonical(document)), bytes, "canonical bytes");
  same(keccak256(bytes), digest, "document digest");
  if (modelFingerprint !== undefined) {
    const expected = document.model ? keccak256(stringToHex(canonical(document.model))) : ZERO;
    same(modelFingerprint, expected, "model fingerprint");
  }
}

const terms = vectors.costTerms;
for (const entry of vectors.costs) {
  const [unitsIn, unitsCached, unitsOut] = [entry.unitsIn, entry.unitsCached, entry.unitsOut].map(BigInt);
  const [ttft, duration] = [BigInt(entry.ttftMs), BigInt(entry.durationMs)];
  const scale = BigInt(terms.unitScale);
  const sum =
    unitsIn * BigInt(terms.priceIn) + unitsCached * BigInt(terms.priceCached) + unitsOut * BigInt(terms.priceOut);
  const gross = (sum + scale - 1n) / scale;
  same(String(gross), entry.gross, "gross cost");
  const generating = duration - ttft > 1n ? duration - ttft : 1n;
  const speed = BigInt(terms.slaMilliTokensPerS);
  const late = BigInt(terms.slaTtftMs) > 0n && ttft > BigInt(terms.slaTtftMs);
  const slow = speed > 0n && unitsOut > 0n && unitsOut * 1_000_000n < speed * generating;
  same(late || slow, entry.breached, "breach");
  const net = late || slow ? gross - (gross * BigInt(terms.slaCreditBps)) / 10_000n : gross;
  same(String(net), entry.cost, "cost after credit");
}
for (const { cumulative, feeBps, fee } of vectors.fees) {
  same(String((BigInt(cumulative) * BigInt(feeBps)) / 10_000n), fee, "fee");
}

console.log(`${checks} checks passed`);
