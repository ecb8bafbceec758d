// The console of weir in Chromium: `node console.mjs ORIGIN DIR` watches a host whose stream `live/river` has a publisher and
// players, disconnects one of these, and prints a JSON object: what the page showed, what it complained about, and what
// axe-core finds against it and the other pages. Screenshots go to DIR.
//
// Environment: PLAYWRIGHT and AXE, the directories that `playwright-core` and `axe-core` are installed in; CHROMIUM.
import {readFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {join} from 'node:path';

const {chromium} = createRequire(join(process.env.PLAYWRIGHT, '/'))('playwright-core');
const axe = readFileSync(join(process.env.AXE, 'node_modules/axe-core/axe.min.js'), 'utf8');
const [origin, dir] = process.argv.slice(2);
const SIZES = {desk: {width: 1100, height: 900}, phone: {width: 320, height: 700}};
const PAGES = ['/', '/publish/', '/players/', '/console/', '/console/api.html', '/demos/', '/demos/one2one.html', '/demos/room.html'];
const timeout = 30_000;
const complaints = [];

async function open(browser, path) {
  const page = await browser.newPage({viewport: SIZES.desk});
  page.on('pageerror', (error) => complaints.push(`${path}: ${error.message}`));
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && complaints.push(`${path}: ${message.text()}`));
  await page.goto(origin + path);
  return page;
}

async function pictures(page, name) {
  for (const [size, viewport] of Object.entries(SIZES)) {
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({colorScheme});
      await page.setViewportSize(viewport);
      await page.screenshot({path: join(dir, `${name}-${size}-${colorScheme}.png`), fullPage: true});
    }
  }
}

// Whether the page is wider than a small phone.
async function overflows(page) {
  await page.setViewportSize(SIZES.phone);
  return page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
}

async function faults(page, path) {
  await page.evaluate(axe);
  const {violations} = await page.evaluate(() => window.axe.run());
  return violations.filter(({impact}) => ['serious', 'critical'].includes(impact)).map(({id, nodes}) => `${path}: ${id}: ${nodes[0].html}`);
}

/** A console whose server answers wrongly at first, then tells of a stream of another vhost and of many clients. */
async function odd(browser) {
  const page = await browser.newPage({viewport: SIZES.desk});
  let told = null;
  await page.route('**/api/v2/events', async (route) => {
    const streams = {streams: [{...told?.stream, id: 'a', vhost: 'v.example', app: 'live', stream: 'a b'}], total: 1};
    if (!told) return route.fulfill({status: 503, body: 'no'});
    await route.fulfill({contentType: 'text/event-stream', body: `data: ${JSON.stringify({status: told.status, streams})}\n\n`});
  });
  await page.route('**/api/v2/clients?*', (route) => {
    const asked = new URL(route.request().url()).searchParams;
    const [start, count] = ['start', 'count'].map((name) => Number(asked.get(name)));
    const clients = Array.from({length: Math.min(count, 150 - start)}, (_, i) => ({
      id: `${start + i}`, peer: `192.0.2.1:${1000 + start + i}`, type: 'flv-play', vhost: 'v.example', app: 'live', stream: 'a b',
      received_bps: 0, sent_bps: 1000, alive_ms: 1000, rtc: null,
    }));
    return route.fulfill({json: {clients, total: 150}});
  });
  await page.goto(`${origin}/console/`);
  await page.getByText('The server is not reached; trying on.').waitFor({timeout});
  told = await page.evaluate(async () => {
    const [status, {streams}] = await Promise.all(['status', 'streams'].map(async (what) => (await fetch(`/api/v2/${what}`)).json()));
    return {status, stream: streams[0]};
  });
  const link = await page.locator('#streams a').getAttribute('href', {timeout});
  const counts = [await page.locator('#clients-count').innerText()];
  await page.locator('#after').click();
  await page.getByText('192.0.2.1:1149').waitFor({timeout});
  counts.push(await page.locator('#clients-count').innerText());
  await pictures(page, 'console-many');
  const last = await page.locator('#after').isDisabled();
  await page.locator('#before').click();
  await page.getByText('192.0.2.1:1000').waitFor({timeout});
  await page.close();
  return {link, counts, last};
}

const browser = await chromium.launch({executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: ['--no-sandbox', '--disable-gpu']});
try {
  const page = await open(browser, '/console/');
  const stream = page.locator('#streams tbody tr', {hasText: 'live/river'});
  await stream.getByText('H264').waitFor({timeout});
  const players = page.locator('#clients tbody tr', {hasText: 'flv-play'});
  await players.first().waitFor({timeout});
  const before = await players.count();
  await page.waitForFunction(() => document.querySelector('#chart-out path').getAttribute('d')?.includes('L'), null, {timeout});
  const shown = {said: await page.locator('#said').innerText(), stream: await stream.innerText(), host: await page.locator('#host').innerText(),
    workers: await page.locator('#workers tbody tr').count(), clients: before};
  await pictures(page, 'console');
  await players.first().getByRole('button').click();
  await page.waitForFunction((count) =>
    [...document.querySelectorAll('#clients tbody tr')].filter((row) => row.textContent.includes('flv-play')).length < count, before, {timeout});
  const narrow = {};
  const found = [];
  for (const path of PAGES) {
    const other = await open(browser, path);
    if (path.endsWith('api.html')) await other.locator('details').first().waitFor({timeout});
    for (const colorScheme of ['light', 'dark']) {
      await other.emulateMedia({colorScheme});
      found.push(...await faults(other, `${path} ${colorScheme}`));
    }
    narrow[path] = await overflows(other);
    if (path.endsWith('api.html')) await pictures(other, 'api');
    await other.close();
  }
  const strange = await odd(browser);
  process.stdout.write(`${JSON.stringify({shown, narrow, faults: found, strange, complaints})}\n`);
} finally {
  await browser.close();
}
