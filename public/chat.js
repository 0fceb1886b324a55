// The chat page. docs/chat.md describes what it sends and gets. What the model says is only ever set as text.

const [log, draft, composer, message, send, model, status, door, refused, key, token] = [
  'log', 'draft', 'composer', 'message', 'send', 'model', 'status', 'door', 'refused', 'key', 'token',
].map((id) => document.getElementById(id))

const TOKEN = 'webchat-token' // the name in sessionStorage, which ends with the tab
const CUT = 'The connection was cut before the answer was whole.'
const ENDED = { left: 'Stopped.', error: 'The answer broke off here.', stopped: 'Stopped.' }

let conversation = '' // its id stands in the address too, so that a reload finds it again
let work = null // the AbortController of what is under way, one thing at a time
let follows = true // whether the reader is at the bottom, and stays there while the answer grows
let lastY = 0

class Failure extends Error {
  constructor(words, status) {
    super(words)
    this.status = status
  }
}

// What can be done: open what the address names, begin anew, ask, stop.

function open() {
  leave()
  log.replaceChildren()
  draft.replaceChildren()
  const address = new URLSearchParams(location.hash.slice(1))
  conversation = address.get('conversation') ?? ''
  if (address.has('token')) {
    sessionStorage.setItem(TOKEN, address.get('token'))
    name(conversation)
  }
  if (!sessionStorage.getItem(TOKEN)) return wantToken('')
  message.focus()
  if (conversation) load()
}

function beginAnew() {
  if (conversation) history.pushState(null, '', location.pathname + location.search) // Back returns to it
  open()
}

async function load() {
  const mine = begin('The conversation is being loaded.')
  log.setAttribute('aria-live', 'off') // what was said long ago is not read out
  let data, problem
  try {
    const path = `api/conversations/${encodeURIComponent(conversation)}`
    data = (await (await request(path, { signal: mine.signal })).json()).data
  } catch (error) {
    problem = error
  }
  if (!end(mine)) return
  if (problem) log.setAttribute('aria-live', 'polite')
  if (problem?.status === 404) {
    name((conversation = ''))
    return note('That conversation is not there any more. This is a new one.')
  }
  if (problem) return complain(problem, mine, load)
  model.value = data.model
  log.append(...data.messages.filter(({ content }) => content).map(({ role, content }) => bubble(role, content)))
  const [question, answer] = data.messages.slice(-2)
  if (data.messages.at(-1)?.role === 'user') note('The answer to this is not there yet.', 'Look again', open)
  else if (answer?.state in ENDED) note(ENDED[answer.state], 'Ask again', () => ask(question.content))
  follows = true
  follow()
}

function ask(text) {
  if (!conversation) name((conversation = newId()))
  log.querySelectorAll('.note button').forEach((button) => button.remove()) // only the last can be tried again
  log.setAttribute('aria-live', 'polite')
  const question = { message: text, messageId: newId(), conversationId: conversation, model: model.value }
  const asked = bubble('user', text)
  log.append(asked)
  follows = true
  answer(question, asked)
}

async function answer(question, asked) {
  const mine = begin('The answer is being written.')
  mine.messageId = question.messageId
  const said = bubble('assistant', '')
  const text = said.lastChild.firstChild // one text node, since two pieces may share an emoji
  let problem
  draft.replaceChildren(said)
  follow()
  try {
    const body = JSON.stringify(question)
    const response = await request('api/chat', { method: 'POST', body, signal: mine.signal })
    for await (const event of events(response.body)) {
      if (event.error) throw new Failure(event.error)
      text.appendData(event.text)
      follow()
    }
  } catch (error) {
    problem = error
  }
  if (!end(mine)) return
  draft.replaceChildren()
  if (text.data) log.append(said) // here a screen reader reads it, once and whole
  if (problem) complain(problem, mine, again, edit)
  follow()

  function again() {
    said.remove()
    answer(question, asked) // with the same messageId: an answer that was whole is repeated, not written twice
  }
  function edit() {
    asked.remove()
    message.value = [question.message, message.value].filter(Boolean).join('\n')
  }
}

function begin(words) {
  work = new AbortController()
  status.textContent = words
  send.textContent = 'Stop'
  return work
}

/** End what is under way; false when the reader has left it for something else. */
function end(mine) {
  if (work !== mine) return false
  work = null
  status.textContent = ''
  send.textContent = 'Send'
  return true
}

function stop() {
  work?.abort()
  if (!work?.messageId) return
  const query = `messageId=${encodeURIComponent(work.messageId)}`
  request(`api/chat/${encodeURIComponent(conversation)}/stream?${query}`, { method: 'DELETE' }).catch(() => {})
}

function leave() {
  const left = work
  if (left) end(left)
  left?.abort()
}

// The wire: a request with the token, an answer's events, and what goes wrong in words.

async function request(path, options) {
  const bytes = new TextEncoder().encode(sessionStorage.getItem(TOKEN) ?? '') // a header's characters are bytes
  const headers = { 'Content-Type': 'application/json', Authorization: `Bearer ${String.fromCharCode(...bytes)}` }
  const response = await fetch(path, { ...options, headers, cache: 'no-store' }).catch(() => {
    throw new Failure('The server cannot be reached. Is it running, and are you online?')
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

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader()
  for (let rest = ''; ; ) {
    const { done, value } = await reader.read().catch(() => ({ done: true }))
    if (done) throw new Failure(CUT)
    const lines = (rest + value).split('\n')
    rest = lines.pop() // a chunk may end anywhere
    for (const line of lines) {
      if (line === 'data: [DONE]') return
      if (line.startsWith('data: ')) yield JSON.parse(line.slice(6)) // the rest are blank lines and comments
    }
  }
}

function complain(problem, mine, again, edit) {
  if (mine.signal.aborted) return note(ENDED.left, 'Try again', again)
  if (problem.status === 400 || problem.status === 413) return note(problem.message, 'Edit the message', edit)
  if (problem.status === 404) return note(problem.message, 'New chat', beginAnew)
  note(problem.message, 'Try again', again)
  if (problem.status === 401) wantToken(problem.message)
  if (!(problem instanceof Failure)) throw problem // a mistake of this page: for the console too
}

// What is seen.

function bubble(role, text) {
  const [element, who, said] = ['div', 'span', 'p'].map((tag) => document.createElement(tag))
  element.className = role
  who.className = 'unseen'
  who.textContent = role === 'user' ? 'You: ' : 'Answer: '
  said.dir = 'auto'
  said.append(text)
  element.append(who, said)
  return element
}

function note(words, label, action) {
  const [element, said, button] = ['div', 'p', 'button'].map((tag) => document.createElement(tag))
  element.className = words === ENDED.left ? 'quiet note' : 'note' // who stopped it has no need of an alarm
  said.textContent = words
  element.append(said)
  button.textContent = label
  button.onclick = () => {
    element.remove()
    message.focus()
    action()
  }
  if (label) element.append(button)
  log.append(element)
}

function wantToken(words) {
  refused.textContent = words
  if (!door.open) door.showModal()
}

function follow() {
  if (follows) scrollTo(0, document.documentElement.scrollHeight)
}

function name(id) {
  history.replaceState(null, '', id ? `#conversation=${encodeURIComponent(id)}` : location.pathname + location.search)
}

function newId() { // crypto.randomUUID is not there on a plain-http address
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('')
}

// What the reader does.

composer.onsubmit = (event) => {
  event.preventDefault()
  const text = message.value
  if (work) return stop()
  if (!text.trim()) return
  message.value = ''
  ask(text)
}
send.onclick = (event) => {
  if (event.detail > 1) event.preventDefault() // the second half of a double click would stop what the first began
}
message.onkeydown = (event) => {
  const composes = event.isComposing || event.keyCode === 229 // Enter chooses a word; Safari says only 229
  if (event.key !== 'Enter' || event.shiftKey || composes) return
  event.preventDefault()
  if (!work) composer.requestSubmit()
}
key.onsubmit = (event) => {
  event.preventDefault()
  sessionStorage.setItem(TOKEN, token.value.trim())
  token.value = ''
  door.close()
  const again = log.querySelector('.note button')
  if (again) again.click()
  else open()
}
document.getElementById('new').onclick = beginAnew
addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && !event.isComposing && !door.open) stop()
})
addEventListener('scroll', () => {
  const isAtEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 4
  follows = isAtEnd || (follows && scrollY >= lastY)
  lastY = scrollY
})
addEventListener('popstate', open)
open()
