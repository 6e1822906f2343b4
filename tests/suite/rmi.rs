//! stub
pub fn unused_by_tag() {}
pub fn mounted_by_tag() {}
