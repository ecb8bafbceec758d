//! The media that is published: made by ffmpeg, and known frame by frame, so that what a player got can be placed.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::ffmpeg;
use super::flv::{AUDIO, Tag, Tags, VIDEO};

/// Frames of video a second.
pub const FPS: usize = 25;

/// Frames from one keyframe to the next.
pub const GOP: usize = 2 * FPS;

/// So many frames more or less than asked for make no difference.
const CUT: usize = 5;

const PICTURE: &str = "testsrc2=size=320x180:rate=25:duration=10";

/// Never the same twice, so that no two audio frames are equal.
const SOUND: &str = "aevalsrc=0.5*sin(2*PI*t*(300+40*t)):s=44100:d=10";

const PLAIN: &str = "-c:v libx264 -preset veryfast -profile:v baseline -g 50 -keyint_min 50 -sc_threshold 0 -b:v 150k \
    -pix_fmt yuv420p -c:a aac -b:a 48k";

const B_FRAMES: &str = "-c:v libx264 -preset veryfast -profile:v main -bf 2 -b_strategy 0 -g 50 -keyint_min 50 \
    -sc_threshold 0 -b:v 150k -pix_fmt yuv420p -c:a aac -b:a 48k";

/// Ten seconds of H.264 and AAC.
pub struct Source {
    /// The FLV file.
    pub path: PathBuf,
    video: Track,
    audio: Track,
}

/// Where each frame of one track stands, by its hash and by its FLV tag body.
struct Track {
    hashes: HashMap<String, usize>,
    bodies: HashMap<Vec<u8>, usize>,
    keyframes: BTreeSet<usize>,
}

/// What a player got of a source.
#[derive(Debug, Default)]
pub struct Received {
    /// Positions of the video frames in the source.
    pub video: Vec<usize>,
    /// Positions of the audio frames.
    pub audio: Vec<usize>,
}

impl Source {
    /// Baseline profile: every frame is shown when it is decoded.
    pub fn plain() -> &'static Self {
        static SOURCE: OnceLock<Source> = OnceLock::new();
        SOURCE.get_or_init(|| Self::make(PLAIN))
    }

    /// Main profile with two B-frames: composition times differ from decoding times.
    pub fn b_frames() -> &'static Self {
        static SOURCE: OnceLock<Source> = OnceLock::new();
        SOURCE.get_or_init(|| Self::make(B_FRAMES))
    }

    /// Makes the file, unless a test before has made it from the same recipe.
    fn make(codecs: &str) -> Self {
        let mut recipe = DefaultHasher::new();
        (PICTURE, SOUND, codecs).hash(&mut recipe);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("source-{:016x}.flv", recipe.finish()));
        if !path.exists() {
            let part = path.with_extension(format!("{}.flv", std::process::id()));
            let inputs = ["-y", "-f", "lavfi", "-i", PICTURE, "-f", "lavfi", "-i", SOUND];
            let arguments = inputs.into_iter().chain(codecs.split_ascii_whitespace());
            ffmpeg::run(arguments.chain([part.to_str().unwrap()]));
            fs::rename(&part, &path).unwrap();
        }
        let hashes = ffmpeg::run(["-i", path.to_str().unwrap(), "-c", "copy", "-f", "framemd5", "-"]);
        let (video_hashes, audio_hashes) = split_hashes(&hashes);
        let file = fs::read(&path).unwrap();
        let tags: Vec<Tag> = Tags::new(file.as_slice()).map(Result::unwrap).filter(Tag::is_frame).collect();
        let track = |kind, hashes: Vec<String>| Track::new(tags.iter().filter(|tag| tag.kind == kind), hashes);
        let source = Self { path, video: track(VIDEO, video_hashes), audio: track(AUDIO, audio_hashes) };
        assert_eq!(source.video.hashes.len(), 10 * FPS);
        assert_eq!(source.video.keyframes, (0..10 * FPS).step_by(GOP).collect());
        source
    }

    /// Frames of video.
    pub fn frames(&self) -> usize {
        self.video.hashes.len()
    }

    /// Places what `-f framemd5` wrote. Panics at a frame that the source does not have.
    pub fn place_hashes(&self, text: &str) -> Received {
        let (video, audio) = split_hashes(text);
        let place = |track: &Track, hashes: Vec<String>| -> Vec<usize> {
            let find = |hash: &String| *track.hashes.get(hash).unwrap_or_else(|| panic!("no source frame has {hash}"));
            hashes.iter().map(find).collect()
        };
        Received { video: place(&self.video, video), audio: place(&self.audio, audio) }
    }

    /// Places tags as they came over the wire; configuration and metadata are passed over. Panics at a frame that the
    /// source does not have.
    pub fn place_tags<'a>(&self, tags: impl IntoIterator<Item = &'a Tag>) -> Received {
        let mut received = Received::default();
        for tag in tags.into_iter().filter(|tag| tag.is_frame()) {
            let (track, list) = match tag.kind {
                VIDEO => (&self.video, &mut received.video),
                _ => (&self.audio, &mut received.audio),
            };
            let place = track.bodies.get(&tag.body);
            list.push(*place.unwrap_or_else(|| panic!("no source frame is {tag:?}")));
        }
        received
    }

    /// Panics unless it begins with a keyframe and goes on without a gap, around the end of the looped source.
    pub fn assert_whole(&self, received: &Received, who: &str) {
        self.assert_joins_at_keyframes(received, who);
        for (track, places) in [(&self.video, &received.video), (&self.audio, &received.audio)] {
            let gaps = track.gaps(places);
            assert!(gaps.is_empty(), "{who} missed frames: {gaps:?} of {places:?}");
        }
    }

    /// Panics unless it lasts that long. Where ffmpeg cuts depends on the order of the frames around the cut.
    pub fn assert_lasts(&self, received: &Received, seconds: u64, who: &str) {
        let (wanted, got) = (usize::try_from(seconds).unwrap() * FPS, received.video.len());
        assert!(got.abs_diff(wanted) <= CUT, "{who}: {got} frames of video in {seconds} s");
        assert!(!received.audio.is_empty(), "{who}: no sound");
    }

    /// Panics unless it begins with a keyframe, and after each gap too.
    pub fn assert_joins_at_keyframes(&self, received: &Received, who: &str) {
        let first = received.video.first().unwrap_or_else(|| panic!("{who} got no video"));
        assert!(self.video.keyframes.contains(first), "{who} begins with frame {first}, which is no keyframe");
        for (_, from, to) in self.video.gaps(&received.video) {
            assert!(self.video.keyframes.contains(&to), "{who} jumps from {from} to {to}, which is no keyframe");
        }
    }

    /// Gaps of the video: index, the frame before and the frame after.
    pub fn video_gaps(&self, received: &Received) -> Vec<(usize, usize, usize)> {
        self.video.gaps(&received.video)
    }
}

impl Track {
    fn new<'a>(tags: impl Iterator<Item = &'a Tag>, hashes: Vec<String>) -> Self {
        let mut track = Self { hashes: HashMap::new(), bodies: HashMap::new(), keyframes: BTreeSet::new() };
        let count = hashes.len();
        for (place, (tag, hash)) in tags.zip(hashes).enumerate() {
            track.bodies.insert(tag.body.clone(), place);
            track.hashes.insert(hash, place);
            if tag.is_keyframe() {
                track.keyframes.insert(place);
            }
        }
        assert_eq!((track.hashes.len(), track.bodies.len()), (count, count), "the source repeats itself");
        track
    }

    fn gaps(&self, places: &[usize]) -> Vec<(usize, usize, usize)> {
        let length = self.hashes.len();
        let pairs = places.windows(2).enumerate().map(|(at, pair)| (at, pair[0], pair[1]));
        pairs.filter(|(_, from, to)| (from + 1) % length != *to).collect()
    }
}

/// The hashes of streams 0 and 1 of a `framemd5` text.
fn split_hashes(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut video, mut audio) = (Vec::new(), Vec::new());
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let [stream, _, _, _, _, hash] = fields[..] else { panic!("{line:?} is no line of framemd5") };
        if stream == "0" { video.push(hash.to_owned()) } else { audio.push(hash.to_owned()) }
    }
    (video, audio)
}
