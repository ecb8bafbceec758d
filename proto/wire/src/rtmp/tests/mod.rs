mod support;

mod session;
