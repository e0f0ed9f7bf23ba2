"""Every leaf of a language model's config, with its default; recipes say what differs."""

from lmjax.config import config, optional


def rule(match: str, decay: float = 1.0, rate: float = 1.0, freeze: bool = False) -> dict:
    """A record of optim.rules: factors on weight decay and learning rate for the parameters whose path matches."""
    return {"match": match, "decay": decay, "rate": rate, "freeze": freeze}


def language_model():
    """A decoder language model of 3 million parameters on the bytes of the packaged Bible."""
    return config(
        seed=0,
        steps=1000,  # optimizer steps
        batch=32,  # global rows a step
        data=data(),
        model=decoder(),
        start=dict(  # fine-tuning: whose parameters this run begins with
            run=optional(str),  # a run directory, such as lmjax import makes; none: none
            step=optional(int),  # of its checkpoint; none: the newest
            missing="error",  # error init: parameters that it lacks
            drop=(),  # regular expressions for paths of parameters that are not taken from it, such as ("head.*",)
        ),
        objective=dict(
            kind="next_token",
            label_smoothing=0.0,  # e: the true class gets 1 - e + e/V
            z_loss=0.0,  # weight of log(Z)^2
            chunk=optional(int),  # tokens a chunk of the fused cross-entropy; none: automatic; 0: full logits
            focal=0.0,  # classification: the loss times (1 - p)^focal, so that what is known counts less
            class_weights=optional(tuple),  # classification: a factor for each class, in the order of the labels
        ),
        optim=optim(),
        layout=layout(),
        precision=dict(compute="auto"),  # auto (float32 on CPU, bfloat16 on TPU and GPU) float32 bfloat16
        every=dict(  # all in steps
            log=10,
            eval=100,
            save=100,
            histograms=optional(int),  # of gradients and parameters; none: never
            keep=2,  # newest checkpoints kept
        ),
        eval=dict(
            batch=optional(int),  # rows; none: batch
            batches=optional(int),  # none: the whole validation split
            metric="valid/nll",  # chooses the best checkpoints and stops early
            mode="min",  # min max
            best=1,  # best checkpoints kept, saved at their evaluation
            patience=optional(int),  # evaluations without improvement before stopping; none: never
            prompt="",  # of the sample that an evaluation writes
            sample_length=200,  # tokens
        ),
    )


def data() -> dict:
    return dict(
        source="bible",  # a packaged corpus (lmjax data list) or the path of a folder of text files or tables
        kind="text",  # what a record is: text pairs labels tags numbers spans choices images image_labels image_text_labels
        columns=optional(tuple),  # names of the columns or JSON keys to read, such as body; none: text
        tokenizer="bytes",  # bytes chars words bpe char_bpe unigram wordpiece, or a path: tokenizer.json, or .model
        vocab=optional(int),  # ids of a tokenizer that is trained here; none: 8192, or every character
        marks="doc",  # doc cls: whether a record with a row of its own is <doc> text, or <cls> text <sep> as BERT's
        special=optional(tuple),  # names of more special tokens, such as pad,mask,sentinel0
        length=256,  # tokens a row
        source_length=optional(int),  # tokens of a row of its own for what an encoder reads; none: no such row
        valid_fraction=0.05,  # of the documents, chosen by their content
        valid_source=optional(str),  # a source that is validated on, such as reuters_r8:test; none: a part of source
        folds=optional(int),  # parts that cross-validation cuts the documents into, by their content; none: no folds
        fold=0,  # the one that is validated on, from 0 on
        limit=optional(int),  # bytes of text read at most
        packing="concat",  # concat best_fit (no document cut that fits a row) none (a document a row)
        curriculum=curriculum(),
        mixture=mixture(),
        clean=clean(),
        augment=augment(),
        corruption=corruption(),
        buckets=optional(int),  # widths that batches of packing=none are cut to, each compiled; none: data.length
        choices=4,  # kind choices: how many each record has
        image_size=32,  # pixels a side of images: the shorter side scaled, the middle cut out
        workers=optional(int),  # Grain processes that prepare batches; 0: a thread of this one; none: what is faster
    )


def curriculum() -> dict:
    """Documents from easy to hard, and segments that grow; off."""
    return dict(
        by="none",  # none length rarity, a .npy of a score a document, or package.module:function of the documents
        epochs=1,  # in the order of the scores; then shuffled
        noise=0.1,  # how far chance moves a document, as a share of all; 0: strictly sorted
        start_length=optional(int),  # tokens that a segment has at most in the first row; none: data.length
        grow_rows=optional(int),  # rows until segments are as long as rows
    )


def mixture() -> dict:
    """Sources that data.source is mixed with, row by row, in the ids of its tokenizer; none."""
    return dict(
        sources=(),  # such as ("botocore", "~/notes")
        weights=optional(tuple),  # shares of rows of data.source and each of these; none: by size in tokens
        temperature=1.0,  # weights to the power of 1/temperature: higher is more alike
        repeats=optional(tuple),  # most epochs of each, or the word none; then its share goes to the others
    )


def clean() -> dict:
    """What is removed from data before it is split and tokenized, in the order of the rules; all off."""
    return dict(
        bad="error",  # error drop: records that cannot be read
        unicode="none",  # none nfc nfkc
        html=False,  # tags to text
        boilerplate=False,  # cookie, navigation and rights lines
        pii=False,  # e-mail, telephone, IP, card and IBAN numbers become <email> <phone> <ip> <card> <iban>
        min_chars=optional(int),
        max_chars=optional(int),
        min_words=optional(int),
        max_words=optional(int),
        symbols=optional(float),  # most # and ellipses a word, such as 0.1
        repetition=False,  # repeated lines, paragraphs and n-grams; Rae et al. 2021, table A1
        scripts=(),  # such as ("latin",): those that a text's letters must be in
        script_share=0.8,  # of the letters
        outliers="none",  # none std iqr: of the length
        exact_duplicates=False,
        near_duplicates=optional(float),  # Jaccard similarity of word 5-grams from which on a copy goes, such as 0.8
        balance=optional(float),  # most records of a label, as a multiple of the rarest label's
        contamination=optional(int),  # n: validation documents are searched for in training by n-grams of words
        contamination_share=0.5,  # of a document's n-grams found that make it contaminated
        contamination_limit=0.0,  # share of validation documents that may be; more is an error
    )


def augment() -> dict:
    """Random changes of training rows, new in every epoch; none. Those of text need data.packing=none."""
    return dict(
        text=(),  # synonyms insertion deletion swap noise mask, in this order or any; of pairs the source
        rate=0.1,  # share of the words (noise: of the characters) that each of text changes
        image=(),  # crop flip rotate scale translate brightness contrast saturation hue rand_augment, in any order
        area=0.3,  # crop: least share of an image
        degrees=15.0,  # rotate: at most
        zoom=0.2,  # scale: at most 1.2 times
        shift=0.1,  # translate: at most this share of the sides
        jitter=0.4,  # brightness contrast saturation: factors from 0.6 to 1.4
        turn=0.1,  # hue: at most this share of the circle
        fill=128.0,  # level, from 0 to 255, of what comes into sight from outside of an image
        operations=2,  # rand_augment: how many of its fourteen
        magnitude=9.0,  # rand_augment: out of 10
        mix=(),  # mixup cutmix, of images with labels: one by chance a batch
        alpha=optional(float),  # of Beta(alpha, alpha), the shares of two images; none: 0.2 for mixup, 1 for cutmix
    )


def corruption() -> dict:
    """Of texts, what is hidden or moved so that a model restores it, anew in every epoch; off."""
    return dict(
        kind="none",  # none masked sentences spans denoise prefix infill
        rate=0.15,  # masked sentences spans denoise: share of the tokens; infill: of the texts; BART has 0.3
        hidden=0.8,  # masked sentences: share of the chosen tokens that become <mask>
        random=0.1,  # masked sentences: share of them that become any token; the others stay
        whole_word=False,  # masked sentences: all tokens of a word or none
        span=3.0,  # spans denoise: mean tokens of a span
        delete=0.0,  # denoise: share of the tokens that are left out
        permute=False,  # denoise: sentences in any order
        pair="next",  # sentences: is the second text what comes next, or next and order: are the two in their order
        suffix_first=0.5,  # infill: share of the rearranged texts whose suffix stands before their prefix
        pieces=1,  # infill: texts of a row that may be rearranged; each takes three tokens of the row
    )


def decoder() -> dict:
    return dict(
        kind="decoder",
        depth=4,
        width=256,
        heads=4,
        kv_heads=optional(int),  # none: heads; 1: multi-query
        head_width=optional(int),  # none: width / heads
        mlp="swiglu",  # gelu gelu_tanh relu relu2 silu, or gated: geglu swiglu reglu
        mlp_width=optional(int),  # none: 4 width, or 8/3 width rounded up to 32 when gated
        norm="rmsnorm",  # rmsnorm layernorm
        norm_place="pre",  # pre post
        norm_eps=optional(float),  # none: 1e-6 for rmsnorm, 1e-5 for layernorm
        position="rope",  # rope sinusoidal learned alibi t5 none
        rope_base=10000.0,
        rope_scaling="none",  # none linear ntk llama3
        rope_factor=1.0,  # trained length times this is the length aimed at
        rope_trained=8192,  # llama3: the trained length
        rope_low=1.0,  # llama3: pairs that turn less often in it are slowed by the factor
        rope_high=4.0,  # llama3: pairs that turn more often are left alone
        max_length=optional(int),  # size of the table of learned positions; none: data.length
        window=optional(int),  # tokens a position sees, itself included; none: all
        window_layers="all",  # all, or alternate: the first layer sees all tokens, the second a window, and so on
        attention_softcap=optional(float),
        logit_softcap=optional(float),
        qk_norm=False,
        bias=False,
        qkv_bias=False,  # of queries, keys and values only, where there is no bias elsewhere
        tied=True,  # input and output embeddings
        vocab=optional(int),  # ids that the tables are made for; none: those of the tokenizer
        vocab_multiple=128,  # the vocabulary is padded up to a multiple of this; the loss does not change
        dropout=0.0,
        layers="scan",  # scan unroll
        remat="minimal",  # none full minimal dots offload
        attention="auto",  # auto dense blocked chunked splash cudnn
        init_scale=1.0,
        patch=optional(int),  # pixels a side of the squares that images are cut into; none: no images
        patch_pattern="causal",  # causal bidirectional: which squares a square sees
        pool="last",  # classifier: last mean, of the positions that are not padding
    )


def optim() -> dict:
    return dict(
        name="adamw",  # lmjax/optim/optimizers.py has them all
        learning_rate=3e-3,  # the peak
        schedule=dict(
            name="cosine",  # constant linear exponential cosine wsd inverse_sqrt plateau
            warmup=100,  # steps
            end=0.1,  # last learning rate as a fraction of the peak
            decay=optional(float),  # wsd: the fraction of steps that decays; none: 0.2
            factor=optional(float),  # plateau: what multiplies the learning rate; none: 0.5
            patience=optional(int),  # plateau: windows without a new lowest loss; none: 10
            window=optional(int),  # plateau: steps that the loss is averaged over; none: 100
        ),
        weight_decay=0.1,
        clip=dict(by="global_norm", at=1.0),  # none value global_norm block_rms adaptive
        b1=optional(float),  # none: the optimizer's own default; one that it does not take is an error
        b2=optional(float),
        b3=optional(float),  # adan
        eps=optional(float),
        momentum=optional(float),
        moments="float32",  # float32 bfloat16 int8: how the optimizer's state is kept between steps
        microbatches=1,
        ema=optional(float),  # decay of the moving average of the parameters; none: no average
        layer_decay=optional(float),  # of the learning rate from a layer to the one below it; none: all alike
        unfreeze=optional(int),  # steps until the next layer below begins to learn, heads first; none: all at once
        skip=dict(
            nonfinite=True,  # leave out a step whose loss or gradient is not finite
            spike=optional(float),  # leave out a step whose gradient norm is above this times its running mean
            stop_after=20,  # steps left out in a row that end the run
        ),
        rules=dict(  # match: a regular expression for the whole path, or "rest"
            vectors=rule(".*(scale|bias)", decay=0.0),
            rest=rule("rest"),
        ),
    )


def layout() -> dict:
    """Mesh axes by size, and for every dimension name the axes that shard it; axes of size 1 cost nothing."""
    return dict(
        mesh=dict(data=-1, fsdp=1, tensor=1, context=1, expert=1, stage=1),  # -1: the devices that are left
        params=dict(
            embed=("fsdp",),
            mlp=("tensor",),
            heads=("tensor",),
            kv_heads=("tensor",),
            head=(),
            vocab=("tensor",),
            length=(),  # of learned positions
            buckets=(),  # of relative positions
            experts=("expert",),
            layers=("stage",),
        ),
        acts=dict(
            batch=("data", "fsdp"),
            length=("context",),
            embed=(),
            mlp=("tensor",),
            heads=("tensor",),
            kv_heads=("tensor",),
            head=(),
            vocab=("tensor",),
            experts=("expert",),
        ),
        context="auto",  # auto ring ulysses gather: how attention meets the keys of a length that is cut
        pipeline=dict(  # of the stages of mesh.stage, each of which has its share of the layers
            microbatches=optional(int),  # that a batch is cut into; none: as many as there are stages
            rounds=1,  # 1: GPipe; more: circular, a stage has so many groups of layers that are not neighbours
        ),
    )
