//! The streams of this worker, for operators.

use std::collections::BTreeMap;
use std::time::Duration;

use weir_media::StreamName;
use weir_node::rows::named;
use weir_proto::supervisor::StreamRow;

use crate::hub::Hub;

/// All of them: those that are published here, and those that are played. `noted`: the time since [`note`].
pub(crate) fn streams(hub: &Hub, noted: Duration) -> Vec<StreamRow> {
    let mut rows: BTreeMap<StreamName, StreamRow> = BTreeMap::new();
    let publishers = hub.clients().publishers();
    hub.each_publication(|publication| {
        let row = rows.entry(publication.name().clone()).or_default();
        row.publisher = publishers.get(publication.name()).copied();
        publication.describe(row, noted);
    });
    hub.each_stream(|stream| stream.describe(rows.entry(stream.name().clone()).or_default(), noted));
    hub.bygone().each(|name, sent| rows.entry(name.clone()).or_default().sent += sent);
    rows.into_iter().map(|(name, row)| named(&name, row)).collect()
}

/// Notes how many bytes clients and streams moved so far; once in [`weir_node::lately::NOTE_EVERY`].
pub(crate) fn note(hub: &Hub) {
    hub.clients().note();
    hub.each_publication(|publication| publication.note());
    hub.each_stream(|stream| stream.note());
}
