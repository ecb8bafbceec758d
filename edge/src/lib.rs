//! weir-edge.
