// Chromium as publisher and player: `node browser.mjs [--seconds N] WISH...`.
//
// Each WISH is a JSON object and gets a page of its own, in the order of the arguments; see `start` in page.js, and
// {"kind":"capabilities"}, which only prints what the browser can encode and decode. Prints a JSON line a page and
// second, {"page":0,...}, a line with "error" for what failed, and at the end {"page":0,"ended":STATUS OF DELETE}.
// Ends after N seconds, or at SIGTERM or SIGINT; exits with 1 if a page could not start.
//
// Environment: PLAYWRIGHT, the directory that `playwright-core` is installed in; CHROMIUM, the executable.
import {createServer} from 'node:http';
import {readFile} from 'node:fs/promises';
import {createRequire} from 'node:module';
import {dirname, join} from 'node:path';
import {fileURLToPath} from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const {chromium} = createRequire(join(process.env.PLAYWRIGHT ?? here, '/'))('playwright-core');

const FLAGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update',
  '--disable-sync', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream',
  '--autoplay-policy=no-user-gesture-required', '--allow-loopback-in-peer-connection',
  // A page behind another one is a player all the same.
  '--disable-background-timer-throttling', '--disable-backgrounding-occluded-windows', '--disable-renderer-backgrounding',
];
const PERIOD = 1000;

const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

function read(args) {
  const at = args.indexOf('--seconds');
  const seconds = at < 0 ? 300 : Number(args.splice(at, 2)[1]);
  return {seconds, wishes: args.map((text) => JSON.parse(text))};
}

// Camera and microphone are for secure contexts only; http://localhost is one.
async function serve() {
  const types = {'/page.html': 'text/html', '/page.js': 'text/javascript'};
  const server = createServer(async (request, response) => {
    const type = types[request.url];
    if (!type) return response.writeHead(404).end();
    response.writeHead(200, {'Content-Type': type}).end(await readFile(join(here, request.url)));
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  return {server, url: `http://localhost:${server.address().port}/page.html`};
}

async function open(browser, url, wish, index) {
  const context = await browser.newContext();
  const page = await context.newPage();
  page.on('pageerror', (error) => print({page: index, error: error.message}));
  page.on('crash', () => print({page: index, error: 'the page crashed'}));
  await page.goto(url);
  if (wish.kind === 'capabilities') {
    print({page: index, ...await page.evaluate(() => capabilities())});
    return null;
  }
  await page.evaluate((wish) => start(wish), wish);
  return page;
}

async function main() {
  const {seconds, wishes} = read(process.argv.slice(2));
  let ending = false;
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => { ending = true; });
  const {server, url} = await serve();
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: FLAGS,
    handleSIGTERM: false, handleSIGINT: false,
  });
  const pages = [];
  let failed = false;
  for (const [index, wish] of wishes.entries()) {
    try {
      const page = await open(browser, url, wish, index);
      if (page) pages.push({page, index});
    } catch (error) {
      failed = true;
      print({page: index, error: error.message});
    }
  }
  const end = Date.now() + seconds * 1000;
  while (!ending && pages.length > 0 && Date.now() < end) {
    await sleep(PERIOD);
    for (const {page, index} of pages) print({page: index, ...await page.evaluate(() => sample())});
  }
  for (const {page, index} of pages.reverse()) {
    const ended = await page.evaluate(() => stop()).catch((error) => error.message);
    print({page: index, ended});
  }
  await browser.close();
  server.close();
  process.exitCode = failed ? 1 : 0;
}

await main();
