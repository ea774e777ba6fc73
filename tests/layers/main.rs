//! System test.
