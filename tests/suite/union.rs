pub const CASES: &[super::union_support::Case] = &[];
