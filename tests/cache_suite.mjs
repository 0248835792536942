// Runs the public suite of tests for HTTP caches against a proxy, and prints what it found as JSON:
// the tests, our results, and those that the suite has of browsers.
//
//     node cache_suite.mjs PROXY [ID...]

import fs from 'node:fs'
import fetch from 'node-fetch'
import { getResults, runTests } from 'http-cache-tests/client/runner.mjs'
import suites from 'http-cache-tests/tests/index.mjs'

const [proxy, ...ids] = process.argv.slice(2)
const results = new URL('./node_modules/http-cache-tests/results/', import.meta.url)
const { default: index } = await import(new URL('index.mjs', results))

const tests = suites.flatMap(suite => suite.tests.map(test => ({
  id: test.id,
  name: test.name,
  kind: test.kind ?? 'required',
  depends_on: test.depends_on ?? [],
  is_for_browsers: !test.browser_skip,
  is_for_proxies: !test.browser_only
})))
const browsers = Object.fromEntries(index
  .filter(entry => entry.type === 'browser')
  .map(entry => [
    `${entry.name} ${entry.version.split('.')[0]}`,
    JSON.parse(fs.readFileSync(new URL(entry.file, results)))
  ]))
const chosen = suites
  .map(suite => ({ ...suite, tests: suite.tests.filter(test => !ids.length || ids.includes(test.id)) }))
  .filter(suite => suite.tests.length)
await runTests(chosen, fetch, false, proxy)
console.log(JSON.stringify({ tests, browsers, results: getResults() }))
