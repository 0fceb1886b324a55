// What the compiler refuses: one mistake a line.
import createClient from 'openapi-fetch'
import type { paths } from './api.js'

const client = createClient<paths>({})

await client.GET('/post') // no such path
await client.DELETE('/posts') // no such verb
await client.POST('/posts', { body: { author: { name: 'Ada' } } }) // no title
await client.POST('/posts', { body: { title: 7, author: { name: 'Ada' } } }) // not a string
await client.POST('/posts', { body: { title: 'Hi', author: { name: 'Ada' }, kind: 'secret' } }) // not one of the two
await client.GET('/posts', { params: { query: { limit: 'all' } } }) // not a number
await client.GET('/posts/{id}', { params: { path: { id: 'x' } } }) // not a number
;(await client.GET('/posts/{id}', { params: { path: { id: 1 } } })).data!.text // no such field
