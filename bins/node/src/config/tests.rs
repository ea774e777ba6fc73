use super::*;

const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn file(text: &str) -> Result<TomlFile<Layer>, TomlError> {
    TomlFile::parse(Path::new("/d/config.toml"), text.to_owned(), SCHEMA)
}

fn resolve(text: &str, environment: &[(&str, &str)], flags: Layer) -> Result<NodeConfig, ConfigError> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    NodeConfig::resolve(Path::new("/d"), Some(file(text)?), environment, flags)
}

fn error(text: &str, environment: &[(&str, &str)]) -> String {
    resolve(text, environment, Layer::default()).expect_err("must be refused").to_string()
}

#[test]
fn a_flag_wins_over_the_environment_that_over_the_file_and_that_over_the_default() {
    let text = "listen = \"1.1.1.1:1\"\ntarget_peers = 3\nmax_peers = 30\n[log]\nformat = \"json\"\n";
    let environment = [("PEERAGE_LISTEN", "2.2.2.2:2"), ("PEERAGE_TARGET_PEERS", "4"), ("PATH", "/bin")];
    let flags = Layer { listen: Some(([3, 3, 3, 3], 3).into()), ..Layer::default() };
    let config = resolve(text, &environment, flags).expect("valid");
    assert_eq!(config.listen(), ([3, 3, 3, 3], 3).into());
    assert_eq!((config.target_peers(), config.max_peers()), (4, 30));
    assert_eq!((config.log().format(), config.log().filter()), (LogFormat::Json, "info"));
    assert_eq!((config.budget_bytes(), config.outbox(), config.advertise()), (Budget::DEFAULT_CAP, true, None));
    assert!(!config.compression(), "off unless somebody turns it on");
}

#[test]
fn an_unknown_key_names_its_line_and_what_was_meant() {
    assert_eq!(
        error("listen = \"1.1.1.1:1\"\n\ntarget_peer = 3\n", &[]),
        "/d/config.toml:3: unknown key `target_peer`; did you mean `target_peers`?"
    );
    assert_eq!(
        error("[log]\nfliter = \"info\"\n", &[]),
        "/d/config.toml:2: unknown key `log.fliter`; did you mean `filter`?"
    );
    assert_eq!(error("colour = 1\n", &[]), "/d/config.toml:1: unknown key `colour`: remove it");
    assert_eq!(
        error("", &[("PEERAGE_LISTNE", "x")]),
        "unknown environment variable PEERAGE_LISTNE; did you mean PEERAGE_LISTEN?"
    );
    resolve("", &[("PEERAGE_SERVICE_HOST", "10.0.0.1")], Layer::default()).expect("not ours, not near");
}

#[test]
fn a_value_that_makes_no_sense_says_where_it_was_given() {
    let seed = error("\nseeds = [\"nobody\"]\n", &[]);
    assert!(seed.starts_with("/d/config.toml:2: ") && seed.contains("nodeid@host:port"), "{seed}");
    let listen = error("listen = \"here\"\n", &[]);
    assert!(listen.starts_with("/d/config.toml:1: "), "{listen}");
    let broken = error("a = 1\nb = = 2\n", &[]);
    assert!(broken.starts_with("/d/config.toml:2: "), "{broken}");
    let targets = error("max_peers = 4\n", &[("PEERAGE_TARGET_PEERS", "5")]);
    assert_eq!(
        targets,
        "target_peers, from environment variable PEERAGE_TARGET_PEERS: 1 to 4 (`max_peers`) are possible"
    );
    let default = error("max_peers = 4\n", &[]);
    assert!(default.starts_with("target_peers, from the default: "), "{default}");
    let budget = error("outbox = true\nbudget_bytes = 1\n", &[]);
    assert!(budget.starts_with("budget_bytes, from /d/config.toml:2: "), "{budget}");
    let advertise = error("advertise = \"0.0.0.0:1\"\n", &[]);
    assert!(advertise.starts_with("advertise, from /d/config.toml:1: others cannot dial this"), "{advertise}");
    let filter = error("[log]\nfilter = \"peerage=loud\"\n", &[]);
    assert!(filter.starts_with("log.filter, from /d/config.toml:2: "), "{filter}");
    for unreadable in ["info, peerage=debug", "\u{a0}é[[[[", " é[[[é"] {
        let filter = error(&format!("[log]\nfilter = \"{unreadable}\"\n"), &[]);
        assert!(filter.contains("without blanks"), "{filter}");
    }
    let number = error("", &[("PEERAGE_MAX_PEERS", "many")]);
    assert!(number.starts_with("environment variable PEERAGE_MAX_PEERS: `many`: "), "{number}");
    let limit = error("\negress_limit = 65535\n", &[("PEERAGE_INGRESS_LIMIT", "1")]);
    assert!(limit.starts_with("egress_limit, from /d/config.toml:2: a node needs 65536 "), "{limit}");
    let limit = error("egress_limit = 65536\n", &[("PEERAGE_INGRESS_LIMIT", "1")]);
    assert!(limit.starts_with("ingress_limit, from environment variable PEERAGE_INGRESS_LIMIT: "), "{limit}");
    let limit = error("egress_limit = 102399\nmax_peers = 100\n", &[]);
    assert!(limit.contains("102400 bytes") && limit.contains("`max_peers` at 100"), "{limit}");
    resolve("egress_limit = 102400\nmax_peers = 100\n", &[], Layer::default()).expect("1 KiB/s for each");
    error("egress_limit = 65535\nmax_peers = 10\n", &[]);
    error("egress_limit = -1\n", &[]);
    error("max_peers = 0\n", &[]);
    error("target_peers = 0\n", &[]);
    error("target_peers = -1\n", &[]);
}

#[test]
fn a_limit_is_set_in_each_layer_and_lifted_by_a_higher_one() {
    let text = "egress_limit = 1000000\ningress_limit = 2000000\n";
    let both = |config: NodeConfig| (config.bandwidth().egress, config.bandwidth().ingress);
    let config = resolve(text, &[], Layer::default()).expect("valid");
    assert_eq!(both(config), (NonZeroU64::new(1_000_000), NonZeroU64::new(2_000_000)));
    let flags = Layer { ingress_limit: Some(70_000), ..Layer::default() };
    let config = resolve(text, &[("PEERAGE_EGRESS_LIMIT", "0")], flags).expect("valid");
    assert_eq!(both(config), (None, NonZeroU64::new(70_000)));
}

#[test]
fn a_seed_reads_back_what_it_prints_and_nothing_else() {
    for text in [format!("{ID}@example.org:4477"), format!("{ID}@10.0.0.1:1"), format!("{ID}@[::1]:65535")] {
        let seed: Seed = text.parse().expect("valid");
        assert_eq!((seed.to_string(), seed.id().to_string()), (text, ID.to_owned()));
    }
    for (text, wrong) in [
        ("example.org:1".to_owned(), ParseSeedError::Shape),
        (format!("{ID}@example.org"), ParseSeedError::Shape),
        ("12@example.org:1".to_owned(), ParseSeedError::Id),
        (format!("{ID}@:1"), ParseSeedError::Host),
        (format!("{ID}@a b:1"), ParseSeedError::Host),
        (format!("{ID}@::1:1"), ParseSeedError::Host),
        (format!("{ID}@[::z]:1"), ParseSeedError::Host),
        (format!("{ID}@[::1:1"), ParseSeedError::Host),
        (format!("{ID}@[::1]a:1"), ParseSeedError::Host),
        (format!("{ID}@{}:1", "x".repeat(254)), ParseSeedError::Host),
        (format!("{ID}@host:0"), ParseSeedError::Port),
        (format!("{ID}@host:65536"), ParseSeedError::Port),
    ] {
        assert_eq!(text.parse::<Seed>(), Err(wrong), "{text}");
    }
    let environment = format!("{ID}@a:1, {ID}@b:2");
    let config = resolve("", &[("PEERAGE_SEEDS", &environment)], Layer::default()).expect("valid");
    assert_eq!(config.seeds().iter().map(Seed::host).collect::<Vec<_>>(), ["a", "b"]);
    let config = resolve(&format!("seeds = [\"{ID}@a:1\"]"), &[("PEERAGE_SEEDS", "")], Layer::default());
    assert_eq!(config.expect("valid").seeds(), [], "an empty list is a list");
}

#[test]
fn the_template_is_valid_as_it_is_and_its_comments_state_the_defaults() {
    let untouched = resolve(TEMPLATE, &[], Layer::default()).expect("valid");
    let uncommented: String = TEMPLATE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.contains(" = ") && !setting.starts_with("advertise") => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert_ne!(uncommented, TEMPLATE);
    assert_eq!(resolve(&uncommented, &[], Layer::default()).expect("valid"), untouched);
    for (table, keys) in SCHEMA {
        let lacking =
            keys.iter().find(|key| !TEMPLATE.contains(&format!("# {key} = ")) && !["tls", "log"].contains(key));
        assert_eq!(lacking, None, "in table `{table}`");
    }
}

#[test]
fn the_schema_names_exactly_what_a_layer_holds() {
    let text = format!(
        "listen = \"1.1.1.1:1\"\nadvertise = \"1.1.1.1:1\"\nseeds = [\"{ID}@a:1\"]\ntarget_peers = 1\nmax_peers = 1\n\
         reserved = []\ntrusted = []\nallow = []\ndeny = []\noutbound_per_group = 1\nacquire_timeout = \"1s\"\nidle_timeout = \"1s\"\n\
         budget_bytes = 1\negress_limit = 1\ningress_limit = 1\noutbox = false\ncompression = true\nsecurity = \"noise\"\n\
         [tls]\nca = \"a\"\ncertificate = \"b\"\nkey = \"c\"\ncrl = \"d\"\n[log]\nfilter = \"info\"\nformat = \"text\"\n"
    );
    let layer = file(&text).expect("every key of the schema is a field").value;
    let written = toml::Table::try_from(&layer).expect("a layer is a table");
    let fields = |table: &toml::Table| table.keys().cloned().collect::<std::collections::BTreeSet<_>>();
    let known = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(fields(&written), known(SCHEMA[0].1));
    for (table, keys) in &SCHEMA[1..] {
        assert_eq!(fields(written[*table].as_table().expect("a table")), known(keys));
    }
}

#[test]
fn a_directory_without_a_file_has_the_defaults() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = NodeConfig::load(dir.path(), [], Layer::default()).expect("valid");
    assert_eq!((config.target_peers(), config.data_dir()), (DEFAULT_TARGET_PEERS, dir.path()));
    std::fs::write(dir.path().join("config.toml"), "max_peers = 9\n").expect("written");
    assert_eq!(NodeConfig::load(dir.path(), [], Layer::default()).expect("valid").max_peers(), 9);
}

#[test]
fn whom_the_operator_names_is_read_from_file_and_environment_and_checked() {
    let text = format!(
        "reserved = [\"{ID}@host.example:80\"]\ntrusted = [\"{ID}\"]\nallow = [\"10.0.0.0/8\", \"{ID}\"]\noutbound_per_group = 3\n"
    );
    let config = resolve(&text, &[("PEERAGE_DENY", "192.0.2.7, 2001:db8::/32")], Layer::default()).expect("valid");
    assert_eq!(config.reserved().iter().map(Seed::host).collect::<Vec<_>>(), ["host.example"]);
    assert_eq!((config.trusted().len(), config.outbound_per_group()), (1, 3));
    let printed = |rules: &[Rule]| rules.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(printed(config.allow()), ["10.0.0.0/8", ID]);
    assert_eq!(printed(config.deny()), ["192.0.2.7/32", "2001:db8::/32"]);

    let rule = error("\ndeny = [\"10.0.0.0/33\"]\n", &[]);
    assert!(rule.starts_with("/d/config.toml:2: ") && rule.contains("range of addresses"), "{rule}");
    let trusted = error("trusted = [\"me\"]\n", &[]);
    assert!(trusted.starts_with("/d/config.toml:1: "), "{trusted}");
    let group = error("outbound_per_group = 0\n", &[]);
    assert!(group.starts_with("outbound_per_group, from /d/config.toml:1: "), "{group}");
}

#[test]
fn how_long_the_pool_waits_is_read_from_file_environment_and_flags_and_has_an_hour_at_most() {
    let flags = Layer { idle_timeout: Some("1h".parse().expect("an hour")), ..Layer::default() };
    let config = resolve("acquire_timeout = \"500ms\"\nidle_timeout = \"5s\"\n", &[], flags).expect("valid");
    let seconds = Duration::from_secs;
    assert_eq!((config.acquire_timeout(), config.idle_timeout()), (Duration::from_millis(500), seconds(3600)));
    let config = resolve("", &[("PEERAGE_ACQUIRE_TIMEOUT", "3s")], Layer::default()).expect("valid");
    assert_eq!((config.acquire_timeout(), config.idle_timeout()), (seconds(3), seconds(10)));
    let long = error("\nidle_timeout = \"61m\"\n", &[]);
    assert!(long.starts_with("/d/config.toml:2: ") && long.contains("an hour at most"), "{long}");
    let unit = error("", &[("PEERAGE_IDLE_TIMEOUT", "10")]);
    assert!(unit.contains("PEERAGE_IDLE_TIMEOUT") && unit.contains("with a unit"), "{unit}");
}

#[test]
fn mutual_tls_needs_its_files_which_stand_in_the_data_directory_unless_said_otherwise() {
    let config = resolve("", &[], Layer::default()).expect("valid");
    assert_eq!(config.tls(), None);
    let text = "security = \"mtls\"\n[tls]\nca = \"ca.pem\"\ncertificate = \"/etc/own.pem\"\n";
    let missing = error(text, &[]);
    assert!(missing.starts_with("tls.key, from the default: ") && missing.contains("peerage ca"), "{missing}");
    let config = resolve(text, &[("PEERAGE_TLS_KEY", "own.key")], Layer::default()).expect("valid");
    let files = config.tls().expect("certificates");
    assert_eq!(files.ca, Path::new("/d/ca.pem"));
    assert_eq!(
        (files.certificate.as_path(), files.key.as_path()),
        (Path::new("/etc/own.pem"), Path::new("/d/own.key"))
    );
    assert_eq!(files.crl, None);
    let noise = Layer { security: Some(Security::Noise), ..Layer::default() };
    assert_eq!(resolve(text, &[], noise).expect("valid").tls(), None, "a flag wins");
    let unknown = error("security = \"ssl\"\n", &[]);
    assert!(unknown.starts_with("/d/config.toml:1: "), "{unknown}");
}
