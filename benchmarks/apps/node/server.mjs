// npm resumable-stream as the AI SDK's documentation uses it, and the same app without it.
// VARIANT=node-bare | npm-resumable-stream, PORT, REDIS_URL
import { createServer } from 'node:http'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'

const variant = process.env.VARIANT
const padding = 'x'.repeat(75)

function event() {
  const [seconds, nanoseconds] = process.hrtime() // CLOCK_MONOTONIC, as in the other apps
  const stamp = String(seconds * 1e6 + Math.floor(nanoseconds / 1000)).padStart(16, '0')
  return `data: ${stamp} ${padding}\n\n`
}

function makeStream(query) {
  const number = (name, fallback) => Number(query.get(name) ?? fallback)
  const n = number('n', 1), gap = 1000 * number('gap', 0), burst = number('burst', 1)
  const delay = 1000 * number('delay', 0), hold = 1000 * number('hold', 0)
  let sent = 0
  return new ReadableStream({
    async pull(controller) {
      if (sent === 0 && delay) await sleep(delay)
      if (sent > 0 && sent < n && gap && sent % burst === 0) await sleep(gap)
      if (sent < n) {
        sent += 1
        controller.enqueue(event())
      } else {
        if (hold) await sleep(hold)
        controller.close()
      }
    },
  })
}

async function answer(response, stream) {
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  response.flushHeaders()
  let open = true
  response.on('close', () => { open = false })
  for await (const chunk of stream) {
    if (!open) break
    if (!response.write(chunk)) await Promise.race([once(response, 'drain'), once(response, 'close')])
  }
  response.end()
}

let context
if (variant === 'npm-resumable-stream') {
  const { createResumableStreamContext } = await import('resumable-stream')
  context = createResumableStreamContext({ waitUntil: () => {} })
}

const server = createServer(async (request, response) => {
  const url = new URL(request.url, 'http://x')
  const [, route, id] = url.pathname.split('/')
  if (route !== 'chat') {
    response.writeHead(200, { 'content-type': 'application/json' })
    response.end('{"ok":true}')
    return
  }
  try {
    let stream
    if (request.method === 'POST') {
      const make = () => makeStream(url.searchParams)
      stream = context ? await context.createNewResumableStream(id, make) : make()
    } else {
      stream = await context.resumeExistingStream(id)
    }
    if (!stream) {
      response.writeHead(204)
      response.end()
      return
    }
    await answer(response, stream)
  } catch (error) {
    console.error(error)
    response.destroy()
  }
})
server.listen({ port: Number(process.env.PORT), host: '127.0.0.1', backlog: 4096 })
process.on('unhandledRejection', (error) => console.error(error))
