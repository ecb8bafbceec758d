// Watches by HLS, with hls.js; browsers that play it by themselves and know no media sources do so.
import {kilobits, millis} from '/lib/ui.js';
import {address} from '/players/flv.js';
import {buffered, keep, pictureMeter, refusal} from '/players/retry.js';

/**
 * @param {string} name `app/stream`, or an address
 * @param {HTMLVideoElement} picture
 * @param {(state: import('/weir.js').State, reason: string) => void} onState
 */
export function watch(name, picture, onState) {
  const url = address(name, '.m3u8');
  let hls = null;
  const kept = keep((told) => {
    let over = false;
    picture.addEventListener('playing', told.live);
    import('/lib/hls.js').then(({default: Hls}) => {
      if (over) return;
      if (!Hls.isSupported()) return byItself(url, picture, told);
      // A worker would be made of a text, which the pages' policy forbids.
      hls = new Hls({enableWorker: false, lowLatencyMode: true});
      hls.on(Hls.Events.ERROR, (_, {type, details, fatal, response}) => {
        if (!fatal) return;
        if (type === Hls.ErrorTypes.NETWORK_ERROR) return told.lost(...refusal(response?.code ?? 0));
        told.lost(`this browser cannot play it (${details})`, type === Hls.ErrorTypes.KEY_SYSTEM_ERROR);
      });
      hls.loadSource(url);
      hls.attachMedia(picture);
      picture.play().catch(() => {});
    }, () => told.lost('this server was built without hls.js', true));
    return () => {
      over = true;
      picture.removeEventListener('playing', told.live);
      hls?.destroy();
      hls = null;
      picture.onerror = null;
      picture.removeAttribute('src');
      picture.load();
    };
  }, onState);
  const meter = pictureMeter(picture);
  return {
    stop: kept.stop,
    figures: async () => {
      const level = hls?.levels[hls.currentLevel];
      return [
        ...meter(), ['Bit rate', kilobits(hls?.bandwidthEstimate && level?.bitrate ? level.bitrate : null)],
        ['Codecs', [level?.videoCodec, level?.audioCodec].filter(Boolean).join(', ') || null],
        ['Waits in the buffer', millis(buffered(picture))], ['Behind live', millis(hls?.latency || null)],
      ];
    },
  };
}

function byItself(url, picture, told) {
  if (!picture.canPlayType('application/vnd.apple.mpegurl')) return told.lost('this browser does not play HLS', true);
  picture.onerror = () => told.lost('it cannot be read or played');
  picture.src = url;
  picture.play().catch(() => {});
}
