use std::path::Path;
use std::rc::Rc;

use tokio::net::UnixStream;

use super::Link;
use super::carrier::{self, Lost};

/// Connects to an origin of this host and serves the link until it is lost.
pub(super) async fn connect(link: &Rc<Link>, name: &str, path: &Path) -> Result<(), Lost> {
    let stream = UnixStream::connect(path).await?;
    let (reader, writer) = stream.into_split();
    carrier::run(link, name, reader, writer).await
}
