mod support;

mod dialects;
mod fuzz;
mod handshakes;
mod hostile;
mod limits;
mod names;
mod replies;
mod saved;
mod session;
