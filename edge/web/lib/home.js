// The first page: which version this is, and the addresses for other programs.
import {mediaOrigin, showAddresses} from '/lib/ui.js';

const host = location.hostname;
showAddresses(document.getElementById('addresses'), [
  ['publish by RTMP (OBS: with the key river)', `rtmp://${host}/live`],
  ['publish by WHIP (OBS, ffmpeg)', `${location.origin}/rtc/v1/whip/?app=live&stream=river`],
  ['play by RTMP', `rtmp://${host}/live/river`],
  ['play by HTTP-FLV', `${mediaOrigin()}/live/river.flv`],
  ['play by WHEP', `${location.origin}/rtc/v1/whep/?app=live&stream=river`],
]);

try {
  const {data} = await (await fetch('/api/v1/versions')).json();
  document.getElementById('version').textContent = `This is version ${data.version}.`;
} catch {
  // A page without a version is a page all the same.
}
