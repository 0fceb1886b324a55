// The AI SDK's own chat, cut and resumed as in a browser: node resumes.mjs TOKEN '[[id, url, url, ...], ...]'
//
// Each chat asks at its first address. While it is not whole it resumes at the next, and at the last one in the end.
// What it then holds, and how often it resumed, is printed as JSON.
import { AbstractChat, DefaultChatTransport } from 'ai'

const [token, chats] = process.argv.slice(2)

class State {
  messages = []
  status = 'ready'
  error = undefined
  pushMessage = message => { this.messages = [...this.messages, message] }
  popMessage = () => { this.messages = this.messages.slice(0, -1) }
  replaceMessage = (at, message) => { this.messages = this.messages.with(at, structuredClone(message)) }
  snapshot = value => structuredClone(value)
}

class Chat extends AbstractChat {
  constructor(options) { super({ ...options, state: new State() }) }
}

async function cutAndResumed([id, ...urls]) {
  let asked = 0
  const transport = new DefaultChatTransport({
    api: '/api/chat/ui',
    headers: { Authorization: `Bearer ${token}` },
    fetch: (path, options) => fetch(urls[Math.min(asked++, urls.length - 1)] + path, options),
  })
  const chat = new Chat({ id, transport, onError() {} })
  await chat.sendMessage({ text: 'one' })
  while (chat.status !== 'ready' && asked < 2 * urls.length) await chat.resumeStream()
  const said = chat.messages.map(({ id, role, parts, metadata }) => {
    const text = parts.filter(part => part.type === 'text').map(part => part.text).join('')
    return { id, role, text, metadata }
  })
  return { id, status: chat.status, error: chat.error?.message, resumed: asked - 1, said }
}

console.log(JSON.stringify(await Promise.all(JSON.parse(chats).map(cutAndResumed))))
