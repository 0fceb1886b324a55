// What the compiler accepts: paths, parameters, bodies and answers as the routes declare them.
import createClient from 'openapi-fetch'
import type { paths } from './api.js'

const client = createClient<paths>({ baseUrl: process.argv[2] })

const created = await client.POST('/posts', { body: { title: 'Hi', author: { name: 'Ada' } } })
const id: number = created.data!.id
const page = await client.GET('/posts', { params: { query: { limit: 1, tag: ['a', 'b'] } } })
const titles: string[] = page.data!.map((post) => post.title)
const one = await client.GET('/posts/{id}', { params: { path: { id } } })
const kind: 'draft' | 'public' = one.data!.kind
const lost = await client.GET('/posts/{id}', { params: { path: { id: 999 } } })
const refused = await client.POST('/posts', { body: { title: '', author: { name: 'Ada' } } })
const fields: string[] = refused.error!.details!.map((entry) => `${entry.field} ${entry.message}`)
const stream = await client.GET('/ticks', { parseAs: 'stream' })
const ticks = await new Response(stream.data).text()

console.log(JSON.stringify({ id, titles, kind, lost: [lost.response.status, lost.error], fields, ticks }))
