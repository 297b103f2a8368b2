use super::*;
use crate::model::{tokenizer::Tokenizer, weights::Weights};

fn all() -> impl Iterator<Item = Synthetic> {
    SHAPES.iter().flat_map(|shape| TensorType::all().map(move |kind| Synthetic { shape, kind }))
}

#[test]
fn names_are_understood_in_any_case_and_wrong_ones_list_the_right() {
    for synthetic in all() {
        assert_eq!(Synthetic::parse(&synthetic.name().to_uppercase()), Ok(synthetic));
    }
    let message = |name: &str| Synthetic::parse(name).unwrap_err().to_string();
    assert!(message("qwen2.5-0.5b").contains("SHAPE:QUANT"));
    assert!(message("qwen2.5-1b:q4_k").contains("qwen2.5-1.5b"));
    assert!(message("qwen2.5-0.5b:q4_k_m").contains("q4_k,"));
}

/// Parameters as the model cards have them.
#[test]
fn shapes_have_the_published_number_of_parameters() {
    for (name, parameters) in [
        ("qwen2.5-0.5b", 494_032_768u64),
        ("qwen2.5-1.5b", 1_543_714_304),
        ("qwen2.5-3b", 3_085_938_688),
        ("qwen2.5-7b", 7_615_616_512),
        ("qwen2.5-14b", 14_770_033_664),
        ("mistral-7b", 7_248_023_552),
        ("phi-4-mini", 3_836_021_760),
        ("llama-3.2-1b", 1_235_814_400),
        ("smollm2-135m", 134_515_008),
    ] {
        let synthetic = Synthetic::parse(&format!("{name}:q8_0")).unwrap();
        let learned = synthetic.tensors().into_iter().filter(|tensor| !matches!(tensor.content, Content::Given(_)));
        let found: u64 = learned.map(|tensor| tensor.planned.shape.iter().product::<usize>() as u64).sum();
        assert_eq!(found, parameters, "{name}");
    }
    assert_eq!(SHAPES.len(), 9);
}

#[test]
fn every_shape_can_be_laid_out_in_every_type() {
    let mut sizes = 0;
    for synthetic in all() {
        let layout = synthetic.layout().unwrap();
        let tensors: u64 = layout.tensors().iter().map(|(_, bytes)| bytes).sum();
        assert!(layout.size() >= tensors + layout.header().len() as u64, "{}", synthetic.name());
        sizes += 1;
    }
    assert_eq!(sizes, 9 * 13);
    // 896 is no multiple of 256.
    let layout = Synthetic::parse("qwen2.5-0.5b:q4_k").unwrap().layout().unwrap();
    let kind = |name: &str| layout.tensors().iter().find(|(tensor, _)| tensor.name == name).unwrap().0.kind;
    assert_eq!(kind("blk.0.attn_q.weight"), TensorType::Q5_0);
    assert_eq!(kind("blk.0.ffn_down.weight"), TensorType::Q4K);
    assert_eq!(kind("blk.0.attn_q.bias"), TensorType::F32);
}

/// The smallest shape, written: what every engine needs of it is there, and it is the same each time.
#[test]
fn a_written_file_opens_with_its_shape_and_a_working_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let synthetic = Synthetic::parse("smollm2-135m:q4_0").unwrap();
    let (path, again) = (folder.path().join("a.gguf"), folder.path().join("b.gguf"));
    let mut last = (0, 0);
    synthetic.write(&path, &mut |done, total| last = (done, total)).unwrap();
    synthetic.write(&again, &mut |_, _| {}).unwrap();
    assert!(last.0 > last.1 * 9 / 10 && last.0 <= last.1, "{last:?}");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), synthetic.layout().unwrap().size());
    assert!(std::fs::read(&path).unwrap() == std::fs::read(&again).unwrap(), "two writings differ");
    let weights = Weights::open(path.to_str().unwrap()).unwrap();
    assert_eq!(weights.parameters(), 134_515_008);
    assert!(weights.index().metadata.contains_key(MARK));
    let tokenizer = Tokenizer::new(&weights).unwrap();
    assert_eq!(tokenizer.vocab_size(), 49_152);
    let text = "The water of the people, and how they said it: naïve 日本語 🦀\n";
    let tokens = tokenizer.encode(text, false).unwrap();
    assert_eq!(tokenizer.decode(&tokens), text);
    assert!(tokens.len() < text.len() * 3 / 4, "{} tokens of {} bytes", tokens.len(), text.len());
}

#[test]
fn llama_3_frequencies_are_those_of_its_formula() {
    let factors =
        RopeFactors::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192.0 };
    let tensors = factors.tensors(64, 500_000.0);
    let (name, values) = &tensors[0];
    assert_eq!((*name, values.len()), ("rope_freqs.weight", 32));
    assert!(values.windows(2).all(|pair| pair[0] <= pair[1]));
    assert_eq!((values[0].to_bits(), values[31].to_bits()), (1.0f32.to_bits(), 32.0f32.to_bits()));
    assert!(values.iter().any(|value| *value > 1.0 && *value < 32.0));
}
