mod hand;
mod transitions;

use peerage_core::Budget;
use peerage_wire::compress;

use super::COMPRESSION;

#[test]
fn compressed_bodies_are_offered_only_if_they_are_wanted_and_this_build_can_unpack_them() {
    let mut config = hand::config(1, &[], Budget::default());
    assert_eq!(config.offered(), 0, "nothing, unless somebody wants it");
    let other = 1 << 3;
    config.features = COMPRESSION | other;
    let expected = if compress::AVAILABLE { COMPRESSION | other } else { other };
    assert_eq!(config.offered(), expected);
}
