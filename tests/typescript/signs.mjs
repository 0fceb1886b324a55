// Tokens of npm's jose for each algorithm, and the key set that they need, as JSON: node signs.mjs SECRET CLAIMS
import { exportJWK, generateKeyPair, SignJWT } from 'jose'

const [secret, claims] = process.argv.slice(2)
const found = { keys: [], tokens: {} }

async function sign(header, key) {
  found.tokens[header.alg] = await new SignJWT(JSON.parse(claims))
    .setProtectedHeader(header).setIssuedAt().setExpirationTime('10m').sign(key)
}

await sign({ alg: 'HS256' }, new TextEncoder().encode(secret))
for (const alg of ['RS256', 'ES256', 'EdDSA']) {
  const { publicKey, privateKey } = await generateKeyPair(alg)
  const jwk = { ...(await exportJWK(publicKey)), alg, use: 'sig', kid: alg }
  if (alg === 'EdDSA') delete jwk.alg // providers leave it out, too
  found.keys.push(jwk)
  await sign({ alg, kid: alg }, privateKey)
}
console.log(JSON.stringify(found))
