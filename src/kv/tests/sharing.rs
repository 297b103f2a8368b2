//! What sequences share, and what is kept for those to come.
use super::*;

#[test]
fn a_prefix_is_shared_page_by_page_until_room_is_needed() {
    let mut cache = PagedCache::new(kernels(), settings(WIDE, 6, None)).unwrap();
    let tokens: Vec<u32> = (0..20).collect();
    assert_eq!(cache.open(0, &tokens, 20, None).unwrap(), 0);
    cache.prepare([(0, 20)].into_iter(), &Adding).unwrap();
    cache.advance(0, &tokens).unwrap();
    assert_eq!(cache.open(1, &tokens, 20, None).unwrap(), 16);
    assert_eq!(cache.open(2, &tokens[..16], 20, None).unwrap(), 8, "its last token is to be computed");
    assert_eq!(cache.open(3, &[&[9], &tokens[1..]].concat(), 20, None).unwrap(), 0);
    assert_eq!(cache.report().shared_pages, 2);
    (0..4).for_each(|id| cache.close(id));
    assert_eq!((cache.report().idle_pages, cache.report().tokens), (2, 0));
    assert_eq!(cache.open(4, &tokens, 20, None).unwrap(), 16);
    cache.close(4);
    cache.open(5, &[], 40, None).unwrap();
    cache.prepare([(5, 48)].into_iter(), &Adding).unwrap();
    assert_eq!(cache.report().idle_pages, 0);
    assert_eq!(cache.open(6, &tokens, 20, None).unwrap(), 0);
}

/// Appends numbers to a sequence.
pub(super) fn append(cache: &mut PagedCache, id: u32, tokens: &[u32]) -> Result<(), CacheError> {
    let (length, dropped) = cache.length(id)?;
    cache.prepare([(id, tokens.len())].into_iter(), &Adding)?;
    let now = cache.length(id)?;
    assert_eq!(now.0 + now.1, length + dropped);
    for (at, token) in (now.0..).zip(tokens) {
        cache.write(id, 0, at, &[(*token as usize + at + now.1) as f32; D], &[*token as f32; D]);
    }
    cache.advance(id, tokens)
}

#[test]
fn what_is_kept_for_its_prefix_only_keeps_nobody_out() {
    let stages = [Stage::Spill, Stage::Reject];
    let mut cache = PagedCache::new(kernels(), settings(WIDE, 10, Some(policy(&stages)))).unwrap();
    cache.open(0, &[], 80, None).unwrap();
    cache.open(1, &[], 80, None).unwrap();
    append(&mut cache, 0, &[1; 64]).unwrap();
    assert!(
        matches!(cache.open(2, &[], 80, None), Err(CacheError::Full { .. })),
        "there is no room above the watermark"
    );
    cache.close(0);
    assert_eq!(
        (cache.report().idle_pages, cache.report().used_bytes),
        (8, 8 * cache.settings.shape.bytes(WIDE) as u64)
    );
    cache.open(2, &[], 80, None).unwrap();
    append(&mut cache, 2, &[2; 72]).unwrap();
    // Who is alone is let in, whatever the watermark.
    let never = Policy { high_watermark: 0.0, low_watermark: 0.0, ..policy(&stages) };
    let mut cache = PagedCache::new(kernels(), settings(WIDE, 10, Some(never))).unwrap();
    cache.open(0, &[], 8, None).unwrap();
    assert!(cache.open(1, &[], 8, None).is_err());
    cache.close(0);
    cache.open(1, &[], 8, None).unwrap();
}

/// What is computed from narrower keys and values is another page than the tokens say.
#[test]
fn nobody_is_given_what_was_computed_from_narrower_pages() {
    let narrow = Policy { window: 8, sinks: 0, low_watermark: 0.0, ..policy(&[Stage::Quantize]) };
    let mut cache = PagedCache::new(kernels(), settings(WIDE, 10, Some(narrow))).unwrap();
    let tokens: Vec<u32> = (0..80).collect();
    cache.open(0, &[], 80, None).unwrap();
    append(&mut cache, 0, &[9; 48]).unwrap();
    cache.open(1, &[], 80, None).unwrap();
    append(&mut cache, 1, &tokens[..16]).unwrap();
    assert!(cache.take_transitions().is_empty());
    append(&mut cache, 1, &tokens[16..24]).unwrap();
    assert!(cache.take_transitions().iter().any(|act| act.kind == TransitionKind::Narrowed));
    (0..2).for_each(|id| cache.close(id));
    // The beginning is computed once more, as it should be, and leads nobody to what came after it.
    cache.open(2, &[], 80, None).unwrap();
    append(&mut cache, 2, &tokens[..16]).unwrap();
    assert_eq!(cache.open(3, &tokens, 80, None).unwrap(), 16);
}
