// The wire: a request with the token, an answer's events, and what goes wrong in words. docs/chat.md describes it.

export const TOKEN = 'webchat-token' // the name in sessionStorage, which ends with the tab
const CUT = 'The connection was cut before the answer was whole.'
const WAITS = [1, 2, 4, 8, 15, 30, 30, 30] // seconds before each new try to come back to an answer: two minutes in all

export class Failure extends Error {
  constructor(words, status = 0, isCut = false) {
    super(words)
    this.status = status
    this.isCut = isCut // by the network, which may be back in a moment
  }
}

export const OVER = new Failure('The answer ended in the meantime.')

export async function request(path, options = {}) {
  const bytes = new TextEncoder().encode(sessionStorage.getItem(TOKEN) ?? '') // a header's characters are bytes
  const own = { 'Content-Type': 'application/json', Authorization: `Bearer ${String.fromCharCode(...bytes)}` }
  const asked = { ...options, headers: { ...own, ...options.headers }, cache: 'no-store' }
  const response = await fetch(path, asked).catch(() => {
    throw new Failure('The server cannot be reached. Is it running, and are you online?', 0, true)
  })
  if (response.ok) return response
  throw new Failure(await inWords(response), response.status)
}

async function inWords(response) {
  const { error, details } = await response.json().catch(() => ({})) // a proxy's own error is no JSON
  const after = Number(response.headers.get('Retry-After'))
  if (response.status === 401) return 'The server does not accept this token.'
  if (response.status === 404) return 'This conversation cannot be continued here.'
  if (response.status === 409) return 'The answer to this message is still being written. Wait a few seconds.'
  if (response.status === 413) return 'The message is too long for this server.'
  if (details) return `The server does not take this: ${details.map((d) => `${d.field} ${d.message}`).join('; ')}.`
  return (error ?? `The server answered with status ${response.status}.`) + (after ? ` Wait ${after} seconds.` : '')
}

/** Yield an answer's events. When the network is cut it goes on where it was, after a wait that grows: ``waiting(is)``. */
export async function* pieces(path, options, waiting) {
  let told = '' // the id of the last event: how many characters were told
  for (let tries = 0; ; tries += 1) {
    try {
      const headers = told && { 'Last-Event-ID': told }
      const response = await request(path, { ...options, headers })
      if (response.status === 204) throw OVER
      for await (const { id, event } of events(response.body)) {
        told = id || told || '0'
        if (tries) waiting(false)
        tries = 0
        yield event
      }
      return
    } catch (problem) {
      const isPassing = problem.isCut || [502, 503, 504].includes(problem.status)
      if (options.signal.aborted || !told || !isPassing || tries >= WAITS.length) throw problem
      waiting(true)
      await pause(WAITS[tries] * (0.75 + Math.random() / 2), options.signal) // not all readers in the same moment
    }
  }
}

/** Wait some seconds, at most until the network is back or the signal comes. */
function pause(seconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(done, seconds * 1000)
    addEventListener('online', done)
    signal.addEventListener('abort', done)
    function done() {
      clearTimeout(timer)
      removeEventListener('online', done)
      signal.removeEventListener('abort', done)
      resolve()
    }
  })
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader()
  for (let rest = '', id = ''; ; ) {
    const { done, value } = await reader.read().catch(() => ({ done: true }))
    if (done) throw new Failure(CUT, 0, true)
    const lines = (rest + value).split('\n')
    rest = lines.pop() // a chunk may end anywhere
    for (const line of lines) {
      if (line === 'data: [DONE]') return
      if (line.startsWith('id: ')) id = line.slice(4)
      if (line.startsWith('data: ')) yield { id, event: JSON.parse(line.slice(6)) } // the rest are blanks and comments
    }
  }
}
