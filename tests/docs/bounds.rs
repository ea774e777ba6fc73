//! The bound on memory: the shares of its table are those of the ledger.

use std::collections::BTreeMap;

use peerage_core::{Budget, Pool};

use crate::{read, root, rows};

#[test]
fn each_pool_has_the_share_that_the_page_says() {
    let (mut said, mut last) = (BTreeMap::new(), String::new());
    for (heading, cells) in rows(&read(&root().join("docs/bounds.md"))) {
        if heading != "What is charged" {
            continue;
        }
        let [pool, share, ..] = &cells[..] else { panic!("a row of {} cells", cells.len()) };
        if share.is_empty() {
            assert_eq!(*pool, last, "a row without a share goes on with the pool above");
            continue;
        }
        last.clone_from(pool);
        let parts = share.strip_suffix("/32").and_then(|parts| parts.parse::<usize>().ok());
        let again = said.insert(pool.clone(), parts.unwrap_or_else(|| panic!("{pool}: {share}")));
        assert_eq!(again, None, "{pool} has two shares");
    }
    let counted: BTreeMap<String, usize> = Pool::ALL.map(|pool| (pool.label().to_owned(), pool.share())).into();
    assert_eq!(said, counted);
    assert_eq!(said.values().sum::<usize>(), 32, "together they are the whole");
}

#[test]
fn the_floors_are_those_that_the_page_names() {
    let page = read(&root().join("docs/bounds.md"));
    let budget = Budget::with_floors(Budget::DEFAULT_CAP, 64);
    let account = Budget::account(0);
    budget.seat(&account);
    assert_eq!([Pool::Outbound, Pool::Inbox].map(|pool| account.floor(pool)), [256 << 10; 2]);
    assert!(page.contains("(with the defaults 256 KiB each)"));
}
