//! What the documentation tells people to copy.

#[test]
fn the_sample_configuration_is_valid() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/weir.toml");
    let site = weir_site::load(std::path::Path::new(path)).unwrap();
    assert_eq!((site.uplinks.len(), site.rules.len()), (3, 1));
    assert!(site.warnings.is_empty());
}
