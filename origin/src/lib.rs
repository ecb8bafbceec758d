//! weir-origin.
