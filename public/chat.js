// The chat page. docs/chat.md describes what it sends and gets. What the model says never becomes HTML text.

import { markdown, Writer } from './markdown.js'
import { Failure, OVER, pieces, request, TOKEN } from './wire.js'

const [log, draft, composer, message, send, model, status, door, refused, key, token, chats, titles, more, listed] = [
  'log', 'draft', 'composer', 'message', 'send', 'model', 'status', 'door', 'refused', 'key', 'token',
  'chats', 'titles', 'more', 'listed',
].map((id) => document.getElementById(id))

const STOPPED = 'Stopped.'
const ENDED = {
  left: 'Nobody was here to read on, so the answer ends here.',
  error: 'The answer broke off here.',
  stopped: 'The server was stopped here.',
}
const LOST = 'The connection was lost. Trying to come back to the answer.'
const NONE = 'Nothing was said yet.'
const FINISHED = {
  length: 'The answer reached its greatest length and was cut off here.',
  content_filter: 'The model held back the rest of this answer.',
}

let conversation = '' // its id stands in the address too, so that a reload finds it again
let work = null // the AbortController of what is under way, one thing at a time
let follows = true // whether the reader is at the bottom, and stays there while the answer grows
let lastY = 0

// What can be done: open what the address names, begin anew, ask, stop.

function open() {
  leave()
  log.replaceChildren()
  draft.replaceChildren()
  draft.ariaBusy = 'false'
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
  const running = data.messages.at(-1)?.state === 'running' && data.messages.pop() // it is shown as it is written
  log.append(...data.messages.filter(({ content }) => content).map(({ role, content }) => bubble(role, content)))
  const { content, id } = data.messages.findLast(({ role }) => role === 'user')
  const question = { message: content, messageId: id, conversationId: conversation, model: data.model }
  const [asked, said] = ['.user', '.user ~ .assistant:last-child'].map((found) => [...log.querySelectorAll(found)].at(-1))
  if (running) answer(question, asked, true)
  else ended(data.messages.at(-1), () => {
    said?.remove()
    answer(question, asked)
  })
  follows = true
  follow()
}

/** Say how an answer ended, where that is not what a reader expects. */
function ended({ state, reason, finish }, again) {
  if (state in ENDED) note(reason === 'client' ? STOPPED : ENDED[state], 'Ask again', again)
  else if (finish && finish !== 'stop') note(FINISHED[finish] ?? 'The model ended its answer early.')
}

function ask(text) {
  if (!conversation) name((conversation = newId()))
  log.querySelectorAll('.note button').forEach((button) => button.remove()) // only the last can be tried again
  log.setAttribute('aria-live', 'polite')
  const asked = bubble('user', text)
  log.append(asked)
  follows = true
  answer({ message: text, messageId: newId(), conversationId: conversation, model: model.value }, asked)
}

/** Show an answer while it is written: ask for it, or, where it is being written already, only listen. */
async function answer(question, asked, isRunning = false) {
  const mine = begin('The answer is being written.')
  const path = `api/chat/${encodeURIComponent(question.conversationId)}/stream`
  const said = bubble('assistant', '')
  const writer = new Writer(said.lastChild)
  let waiting = '' // what came since the page was drawn last: 10,000 pieces are a few hundred drawings
  let problem
  draft.replaceChildren(said)
  draft.ariaBusy = 'true'
  follow()
  mine.stop = () => request(`${path}?messageId=${encodeURIComponent(question.messageId)}`, { method: 'DELETE' })
  try {
    const options = isRunning ? {} : { method: 'POST', body: JSON.stringify(question) }
    for await (const event of pieces(isRunning ? path : 'api/chat', { ...options, signal: mine.signal }, lost)) {
      if (event.error) throw new Failure(event.error)
      if (event.finish) mine.finish = event.finish
      if (!waiting) requestAnimationFrame(draw)
      waiting += event.text
    }
  } catch (error) {
    problem = error
  }
  draw()
  if (!end(mine)) return
  draft.replaceChildren()
  draft.ariaBusy = 'false'
  if (writer.text) log.append(said) // here a screen reader reads it, once and whole
  if (problem === OVER) return open() // it ended while nobody listened: what is kept of it says how
  if (problem || mine.isStopped) complain(problem, mine, again, edit)
  else ended({ finish: mine.finish })
  follow()

  function lost(isLost) {
    status.textContent = isLost ? LOST : 'The answer is being written.'
    if (isLost && draft.lastChild === said) draft.append(noteOf(LOST))
    if (!isLost) draft.replaceChildren(said)
    follow()
  }
  function draw() {
    if (work === mine) log.setAttribute('aria-live', 'polite') // also for who came back: its end is news
    if (waiting) writer.write(waiting)
    waiting = ''
    follow()
  }
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

/** Stop the answer, for every reader of it. Where the server cannot be told, at least nobody listens here. */
async function stop() {
  const mine = work
  mine.isStopped = true
  const told = await mine.stop?.().then((response) => response.json(), () => null)
  if (!told?.data.stopped) mine.abort() // else it ends by itself, after its last words
}

function leave() {
  const left = work
  if (left) end(left)
  left?.abort()
}

// The list of conversations.

async function list(cursor = '') {
  if (!cursor) titles.replaceChildren()
  if (!chats.open) chats.showModal()
  more.hidden = true
  try {
    const isVisitor = sessionStorage.getItem(TOKEN)?.split('.').length === 3 // a JWT: the server knows whose it is
    const query = new URLSearchParams({ ...(cursor && { cursor }), ...(!isVisitor && { all: 'true' }) })
    const { data } = await (await request(`api/conversations?${query}`)).json()
    const found = data.conversations.map(entry)
    titles.append(...found)
    if (cursor) found[0]?.firstChild.focus() // the button that had the focus may be gone
    more.hidden = !data.next
    more.onclick = () => list(data.next)
    listed.textContent = titles.firstChild ? '' : NONE
  } catch (problem) {
    if (problem.status === 401) return chats.close(), wantToken(problem.message)
    listed.textContent = problem.message
  }
}

function entry({ id, title, created }) {
  const [item, opens, when, removes] = ['li', 'button', 'time', 'button'].map((tag) => document.createElement(tag))
  opens.append(title || 'Without words', when)
  when.dateTime = created
  when.textContent = new Date(created).toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' })
  opens.onclick = () => {
    chats.close()
    history.pushState(null, '', `#conversation=${encodeURIComponent(id)}`)
    open()
  }
  removes.textContent = 'Delete'
  removes.ariaLabel = `Delete: ${title}`
  removes.onclick = async () => {
    const problem = await request(`api/conversations/${encodeURIComponent(id)}`, { method: 'DELETE' }).catch((e) => e)
    if (problem instanceof Failure && problem.status !== 404) return void (listed.textContent = problem.message)
    const next = item.nextSibling ?? item.previousSibling
    item.remove()
    listed.textContent = next ? '' : NONE
    const close = chats.querySelector('form button')
    ;(next?.lastChild ?? close).focus() // the keyboard stays where it was
    if (id === conversation) {
      name('')
      open()
    }
  }
  item.append(opens, removes)
  return item
}

function complain(problem, mine, again, edit) {
  if (mine.isStopped || mine.signal.aborted) return note(STOPPED, 'Try again', again)
  if (problem.status === 400 || problem.status === 413) return note(problem.message, 'Edit the message', edit)
  if (problem.status === 404) return note(problem.message, 'New chat', beginAnew)
  note(problem.message, 'Try again', again)
  if (problem.status === 401) wantToken(problem.message)
  if (!(problem instanceof Failure)) throw problem // a mistake of this page: for the console too
}

// What is seen.

/** Return what somebody said: a person's words as they are, the model's as the Markdown that models write. */
function bubble(role, text) {
  const isUser = role === 'user'
  const [element, who, said] = ['div', 'span', isUser ? 'p' : 'div'].map((tag) => document.createElement(tag))
  element.className = role
  who.className = 'unseen'
  who.textContent = isUser ? 'You: ' : 'Answer: '
  said.dir = 'auto'
  said.append(...(isUser ? [text] : markdown(text)))
  element.append(who, said)
  return element
}

function noteOf(words) {
  const [element, said] = ['div', 'p'].map((tag) => document.createElement(tag))
  element.className = words === STOPPED ? 'quiet note' : 'note' // who stopped it has no need of an alarm
  said.textContent = words
  element.append(said)
  return element
}

function note(words, label, action) {
  const [element, button] = [noteOf(words), document.createElement('button')]
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
document.getElementById('list').onclick = () => list()
document.querySelector('main').onclick = async ({ target }) => {
  const figure = target.nodeName === 'BUTTON' && target.closest('figure')
  if (!figure) return
  getSelection().selectAllChildren(figure.lastChild) // where there is no clipboard (plain http), it is selected
  await navigator.clipboard?.writeText(figure.lastChild.textContent)
  target.textContent = navigator.clipboard ? 'Copied' : 'Selected'
  setTimeout(() => (target.textContent = 'Copy'), 2000)
}
addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && !event.isComposing && !door.open && !chats.open && work) stop()
})
addEventListener('scroll', () => {
  const isAtEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 4
  follows = isAtEnd || (follows && scrollY >= lastY)
  lastY = scrollY
})
addEventListener('popstate', open)
open()
