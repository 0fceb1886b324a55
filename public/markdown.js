// Markdown to DOM nodes, as chat answers use it: paragraphs, headings, lists, quotes, tables, code, links, emphasis.
// No text ever becomes HTML: what is not understood stays the text that it is, and links lead to http and https alone.
// Nesting ends at DEPTH, and a mark without an end is looked for once, so the work grows with the text, no faster.

const DEPTH = 12 // of lists, quotes and emphasis in each other; what is deeper is shown as it was written
const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/
const HEADING = /^ {0,3}(#{1,6})((?: .*)?)$/ // the page has the h1, so # is h2
const RULE = /^ {0,3}(?:(?:\* *){3,}|(?:- *){3,}|(?:_ *){3,})$/
const QUOTE = /^ {0,3}> ?/
const ITEM = /^( {0,3})([-*+]|[0-9]{1,9}[.)])(?: +(?=\S)| *$)/
const nodes = (lines, depth) => blocks(lines, depth).map(({ node }) => node)
/** Return the nodes of a text. */
export const markdown = (text) => nodes(text.split('\n'), 0)

/** Shows a text that grows in an element: only the blocks that more text can change are made anew. */
export class Writer {
  text = ''
  #kept = 0 // characters of the text whose nodes stay
  #open = [] // the nodes of the rest
  constructor(element) { this.element = element }

  write(text) {
    this.text += text
    const lines = this.text.slice(this.#kept).split('\n')
    const found = blocks(lines, 0)
    this.#open.forEach((node) => node.remove())
    this.element.append(...found.map(({ node }) => node))
    // a block's first line tells whether it goes on with the block before, once that line is whole
    const kept = Math.max(found.length - (found.at(-1)?.line === lines.length - 1 ? 2 : 1), 0)
    for (const line of lines.slice(0, found[kept]?.line ?? 0)) this.#kept += line.length + 1
    this.#open = found.slice(kept).map(({ node }) => node)
  }
}

/** Return the blocks of some lines, each with the line that it begins at. */
function blocks(lines, depth) {
  const found = []
  for (let line = 0; line < lines.length; ) {
    const [node, next] = lines[line].trim() ? block(lines, line, depth) : [null, line + 1]
    if (node) found.push({ node, line })
    line = next
  }
  return found
}
/** Return the block at a line, and the line behind it. */
function block(lines, i, depth) {
  const [line, fence, heading] = [lines[i], FENCE.exec(lines[i]), HEADING.exec(lines[i])]
  if (fence) return code(lines, i, fence)
  if (heading) return [element(`h${Math.min(heading[1].length + 1, 6)}`, inline(heading[2].trim())), i + 1]
  if (RULE.test(line)) return [element('hr'), i + 1]
  if (depth < DEPTH && QUOTE.test(line)) {
    const end = endOf(lines, i, (quoted) => QUOTE.test(quoted))
    const inner = lines.slice(i, end).map((quoted) => quoted.replace(QUOTE, ''))
    return [element('blockquote', nodes(inner, depth + 1)), end]
  }
  if (depth < DEPTH && ITEM.test(line)) return list(lines, i, depth)
  if (isTable(lines, i)) return table(lines, i)
  const end = endOf(lines, i + 1, (_, at) => !interrupts(lines, at))
  return [element('p', inline(lines.slice(i, end).map((part) => part.trim()).join('\n'))), end]
}

function endOf(lines, i, goesOn) {
  while (i < lines.length && goesOn(lines[i], i)) i += 1
  return i
}

/** Whether a line ends the paragraph before it. */
function interrupts(lines, i) {
  const [line, item] = [lines[i], ITEM.exec(lines[i])]
  const isItem = item && item[0].length < line.length && /^([-*+]|1[.)])$/.test(item[2]) // "in\n1984. That was" is none
  return !line.trim() || isItem || isTable(lines, i) || [FENCE, HEADING, RULE, QUOTE].some((kind) => kind.test(line))
}

function code(lines, i, [opening, fence, title]) {
  const end = endOf(lines, i + 1, (line) => !line.trim().startsWith(fence) || line.trim().replaceAll(fence[0], ''))
  const indent = new RegExp(`^ {0,${opening.search(/\S/)}}`)
  const text = lines.slice(i + 1, end).map((line) => line.replace(indent, '')).join('\n')
  const copy = element('button', ['Copy'], { type: 'button' })
  const pre = element('pre', [element('code', [text])], { tabIndex: 0 }) // scrolled by the keyboard too
  return [element('figure', [element('figcaption', [element('span', [title.trim() || 'text']), copy]), pre]), end + 1]
}

function list(lines, i, depth) {
  const kind = ITEM.exec(lines[i])[2]
  const made = /[0-9]/.test(kind) ? element('ol', [], { start: parseInt(kind, 10) }) : element('ul')
  for (let match; (match = ITEM.exec(lines[i] ?? '')) && match[2].at(-1) === kind.at(-1) && !RULE.test(lines[i]); ) {
    const width = match[1].length + match[2].length + 1
    const indent = (line = '') => Math.min(line.search(/\S/), width)
    const isInside = (line) => indent(line) >= match[1].length + 2 // two blanks do, also below "1. "
    const goesOn = (line, at) => // a blank line before more of the item, or a line that the paragraph runs on in
      line.trim() ? lines[at - 1].trim() && !ITEM.test(line) && !interrupts(lines, at) : isInside(lines[at + 1])
    const end = endOf(lines, i + 1, (line, at) => isInside(line) || goesOn(line, at))
    const inner = lines.slice(i + 1, end).map((line) => line.slice(Math.max(indent(line), 0)))
    const [first, ...rest] = nodes([lines[i].slice(match[0].length), ...inner], depth + 1)
    made.append(element('li', first?.nodeName === 'P' ? [...first.childNodes, ...rest] : first ? [first, ...rest] : []))
    const next = endOf(lines, end, (line) => !line.trim())
    i = ITEM.test(lines[next] ?? '') ? next : end
  }
  return [made, i]
}

function isTable(lines, i) {
  const [head, rule] = [lines[i], cells(lines[i + 1] ?? '')]
  return head.includes('|') && rule.every((cell) => /^:?-+:?$/.test(cell)) && cells(head).length === rule.length
}

function table(lines, i) {
  const sides = cells(lines[i + 1]).map((cell) => (cell.endsWith(':') ? (cell.startsWith(':') ? 'center' : 'end') : ''))
  const cell = (tag, text = '', side = '') => element(tag, inline(text), side && { className: side })
  const row = (line, tag, texts = cells(line)) => // where it has more cells than the head, these are shown too
    element('tr', (texts.length > sides.length ? texts : sides).map((_, at) => cell(tag, texts[at], sides[at])))
  const end = endOf(lines, i + 2, (line) => line.includes('|'))
  const [head, body] = [[row(lines[i], 'th')], lines.slice(i + 2, end).map((line) => row(line, 'td'))]
  const made = element('table', [element('thead', head), element('tbody', body)])
  return [element('div', [made], { className: 'wide', tabIndex: 0 }), end]
}

function cells(line) {
  const inner = line.trim().replace(/^\|/, '').replace(/(?<!\\)\|$/, '')
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll('\\|', '|'))
}
const MARK = /\\[!-/:-@[-`{-~]|`+|!?\[|<https?:\/\/[^\s<>]{1,2000}>|\bhttps?:\/\/[^\s<>]{1,2000}|\*{1,3}|__?|~~/g
const LINK = /!?\[((?:[^[\]\\]|\\.|\[[^[\]]{0,99}\]){0,999})\]\(<?((?:[^\s<>()]|\([^\s<>()]*\)){0,2000})>?(?: "[^"\n]*")?\)/y
const isWord = (character) => /[\p{L}\p{N}]/u.test(character ?? '')
const TAGS = { '*': 'em', _: 'em', '**': 'strong', __: 'strong', '***': 'strong', '~~': 'del' }

/** Return the nodes of a text without blocks. */
function inline(text, depth = 0) {
  const found = []
  const endless = new Set() // marks that have no end behind some place, and so none behind a later one
  const marks = new RegExp(MARK)
  let from = 0
  for (let match; (match = marks.exec(text)); marks.lastIndex = Math.max(from, match.index + match[0].length)) {
    const read = readMark(text, match[0], match.index, endless, depth)
    if (!read) continue
    found.push(text.slice(from, match.index), read[0])
    from = read[1]
  }
  return [...found, text.slice(from)]
}

/** Return the node that begins with a mark, and its end; null where the mark is only text. */
function readMark(text, mark, at, endless, depth) {
  const end = at + mark.length
  const inner = (part) => (depth < DEPTH ? inline(part, depth + 1) : [part])
  if (mark[0] === '\\') return [mark[1], end]
  if (mark.endsWith('[')) {
    LINK.lastIndex = at // an image becomes a link: this page loads nothing from elsewhere
    const link = LINK.exec(text)
    const made = link && anchor(link[2], inner(link[1] || link[2]))
    return made && [made, LINK.lastIndex]
  }
  if (mark.includes('://')) {
    const url = mark[0] === '<' ? mark.slice(1, -1) : bare(mark)
    const made = anchor(url, [url])
    return made && [made, mark[0] === '<' ? end : at + url.length]
  }
  const isCode = mark[0] === '`'
  if (!isCode && (/^\s?$/.test(text[end] ?? '') || (mark[0] === '_' && isWord(text[at - 1])))) return null
  const close = endless.has(mark) ? -1 : closing(text, end, mark)
  if (close < 0) endless.add(mark)
  if (close <= end) return null
  const part = text.slice(end, close)
  const node = isCode ? element('code', [part.trim() || part]) : element(TAGS[mark], inner(part))
  return [mark === '***' ? element('em', [node]) : node, close + mark.length]
}

/** Return where the mark is that ends what an equal one began; -1 where there is none. */
function closing(text, from, mark) {
  for (let at = from; (at = text.indexOf(mark, at)) >= 0; at += mark.length) {
    let run = at + mark.length
    while (text[run] === mark[0]) run += 1
    const isOfMark = mark.length === run - at || (mark.length === 1) === ((run - at) % 2 === 1)
    const isEnd = !/[\s\\]/.test(text[at - 1]) && isOfMark && !(mark[0] === '_' && isWord(text[run]))
    if (mark[0] === '`' ? run - at === mark.length : isEnd) return run - mark.length
    at = run - mark.length
  }
  return -1
}

/** A bare URL ends before the sentence's own punctuation; a bracket is its own where it closes one inside it. */
function bare(url) {
  const isOwn = (end) => url[end - 1] === ')' && url.lastIndexOf('(', end) > url.lastIndexOf(')', end - 2)
  let end = url.length
  while (end && '.,:;!?\'"*_~])'.includes(url[end - 1]) && !isOwn(end)) end -= 1
  return url.slice(0, end)
}

/** Return a link; null where it would lead anywhere but to http or https. */
function anchor(href, inner) {
  const leads = /^https?:\/\/[^/?#]/i.test(href) && URL.canParse(href)
  return leads ? element('a', inner, { href, target: '_blank', rel: 'noopener noreferrer' }) : null
}

function element(tag, inner = [], properties = {}) {
  const made = Object.assign(document.createElement(tag), properties)
  made.append(...inner.filter((node) => node !== ''))
  return made
}
