//! ftx
