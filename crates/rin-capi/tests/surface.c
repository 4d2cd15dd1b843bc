/*
 * Every function on its good way. Writes what it finds as lines of names and values, for the test to compare with the engine.
 *
 *     surface MODEL FILE-TO-WRITE
 */
#include <fenv.h>
#include <inttypes.h>
#include <math.h>
#include <rin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "line %d: not %s: %s\n", __LINE__, #condition, rin_last_error()); \
            exit(1); \
        } \
    } while (0)
#define GOOD(call) CHECK((call) == RIN_STATUS_OK)

/* Whether this thread rounds upward, by what it computes. */
static int upward(void)
{
    volatile float one = 1, tiny = 1e-10f;
    return one + tiny > 1;
}

static int32_t check_rounding(const char *text, size_t bytes, void *user)
{
    (void)text, (void)bytes;
    *(int *)user += upward();
    return 0;
}

static void text(RinContext *context)
{
    uint32_t ids[64], few[2] = { 77, 77 };
    char back[64], short_text[3] = "xx";
    int64_t n = rin_encode(context, "hello there", 0, ids, 64);
    CHECK(n > 2 && n < 64);
    printf("ids");
    for (int64_t i = 0; i < n; i++) {
        printf(" %" PRIu32, ids[i]);
    }
    printf("\n");
    /* What does not fit is told, and not written. */
    CHECK(rin_encode(context, "hello there", 0, few, 1) == n && few[0] == ids[0] && few[1] == 77);
    CHECK(rin_encode(context, "hello there", 0, NULL, 0) == n);
    CHECK(rin_encode(context, "hello there", RIN_TEXT_NO_SPECIAL, NULL, 0) == n - 1);
    CHECK(rin_encode(context, "", RIN_TEXT_NO_SPECIAL, NULL, 0) == 0);
    int64_t bytes = rin_decode(context, ids, (size_t)n, back, sizeof back);
    CHECK(bytes == (int64_t)strlen(back));
    printf("text %s\n", back);
    CHECK(rin_decode(context, ids, (size_t)n, NULL, 0) == bytes);
    CHECK(rin_decode(context, ids, (size_t)n, short_text, 3) == bytes && strlen(short_text) == 2);
    CHECK(strncmp(short_text, back, 2) == 0);
    CHECK(rin_decode(context, NULL, 0, back, sizeof back) == 0 && back[0] == 0);
}

static void facts(RinContext *context, const char *model)
{
    RinModelInfo info = { .struct_size = sizeof info };
    RinPlan before = { .struct_size = sizeof before }, after = { .struct_size = sizeof after };
    RinLoadOptions options = { .struct_size = sizeof options };
    uint32_t version[3];
    char words[64];
    int32_t mode = -1;
    GOOD(rin_version_numbers(&version[0], &version[1], &version[2]));
    snprintf(words, sizeof words, "%" PRIu32 ".%" PRIu32 ".%" PRIu32, version[0], version[1], version[2]);
    CHECK(strcmp(words, rin_version()) == 0);
    GOOD(rin_load_options_init(&options));
    options.threads = 2;
    options.context = 96;
    options.batch = 16;
    options.tier = "scalar";
    options.kv_type = "f16";
    GOOD(rin_plan(NULL, model, &options, &before));
    GOOD(rin_load_model(context, model, &options));
    GOOD(rin_plan(context, NULL, NULL, &after));
    /* What is available changes by itself. */
    CHECK(after.limit_bytes > 0);
    after.limit_bytes = before.limit_bytes;
    CHECK(memcmp(&before, &after, sizeof before) == 0 && before.fits == 1);
    CHECK(before.total_bytes == before.weights_bytes + before.state_bytes + before.scratch_bytes + before.vocabulary_bytes);
    printf("plan %" PRIu64 " %" PRIu64 "\n", before.total_bytes, before.state_bytes);
    GOOD(rin_get_model_info(context, &info));
    CHECK(info.struct_size == sizeof info && info.context == 96 && info.size_mb == (double)info.file_bytes / 1e6);
    printf("info %s %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu64 " %" PRIu64 "\n",
           info.architecture, info.num_layers, info.model_dim, info.vocab_size, info.num_heads, info.num_kv_heads,
           info.max_seq_len, info.ffn_dim, info.num_parameters, info.file_bytes);
    GOOD(rin_set_mode(context, RIN_MODE_TRANSFORMER));
    GOOD(rin_get_mode(context, &mode));
    CHECK(mode == RIN_MODE_TRANSFORMER);
}

static void generations(RinContext *context, const char *model)
{
    RinGenerateOptions options = { .struct_size = sizeof options };
    RinResult result = { .struct_size = sizeof result }, again = { .struct_size = sizeof again };
    uint32_t ids[] = { 1, 5, 9 };
    uint64_t inferences = 0, tokens = 0;
    double ms = 0, rate = 0, joules = 0, millijoules = 0;
    int heard = 0;
    /* Settings hold for models that are loaded later. */
    GOOD(rin_set_temperature(context, 0.7f));
    GOOD(rin_set_top_k(context, 12));
    GOOD(rin_set_top_p(context, 0.9f));
    GOOD(rin_load_model(context, model, NULL));
    GOOD(rin_infer(context, ids, 3, 9, &result));
    CHECK(result.struct_size == sizeof result && result.num_tokens <= 9 && result.prompt_tokens == 3);
    CHECK(result.latency_ns >= result.first_token_ns && result.first_token_ns > 0);
    printf("infer %s\n", result.digest);
    GOOD(rin_free_result(&result));
    GOOD(rin_generate_options_init(&options));
    options.max_tokens = 400;
    options.seed = 3;
    options.min_p = 0.01f;
    options.repeat_penalty = 1.1f;
    options.ignore_eos = 1;
    GOOD(rin_generate(context, "hello there", &options, NULL, NULL, &result));
    CHECK(result.finish == RIN_FINISH_LENGTH && result.tokens != NULL && result.tokens_per_second > 0);
    printf("generate %s\n", result.digest);
    /* The rounding of the program neither matters nor changes, and its callbacks have it too. */
    CHECK(fesetround(FE_UPWARD) == 0 && upward());
    GOOD(rin_generate(context, "hello there", &options, check_rounding, &heard, &again));
    CHECK(upward() && heard > 0);
    CHECK(fesetround(FE_TONEAREST) == 0);
    CHECK(strcmp(result.digest, again.digest) == 0 && strcmp(result.text, again.text) == 0);
    GOOD(rin_free_result(&again));
    /* Text up to a string that ends it. */
    size_t at = result.text_bytes / 2;
    while (((result.text[at] | result.text[at + 1]) & 0x80) != 0) {
        at++;
    }
    CHECK(at + 1 < result.text_bytes);
    char part[3] = { result.text[at], result.text[at + 1], 0 };
    const char *stop[] = { "never in this text", part };
    options.stop = stop;
    options.n_stop = 2;
    GOOD(rin_generate(context, "hello there", &options, NULL, NULL, &again));
    CHECK(again.finish == RIN_FINISH_STOP && again.text_bytes == (size_t)(strstr(result.text, part) - result.text));
    CHECK(strncmp(again.text, result.text, again.text_bytes) == 0);
    GOOD(rin_free_result(&again));
    GOOD(rin_get_inference_count(context, &inferences));
    GOOD(rin_get_total_tokens(context, &tokens));
    CHECK(inferences == 4 && tokens > 800);
    GOOD(rin_profile(context, RIN_MODE_TRANSFORMER, 1, 3, &ms, &rate));
    CHECK(ms > 0 && fabs(ms * rate / 1e3 - 1) < 1e-9);
    RinStatus status = rin_get_energy_joules(context, &joules);
    if (result.energy_status == RIN_ENERGY_STATUS_MEASURED) {
        CHECK(result.energy_joules > 0 && result.energy_uncertainty_joules > 0);
        CHECK(status == RIN_STATUS_OK && joules > result.energy_joules);
        GOOD(rin_get_energy_millijoules(context, &millijoules));
        CHECK(fabs(millijoules / joules - 1e3) < 1e-6);
        printf("energy measured\n");
    } else {
        CHECK(status == RIN_STATUS_UNMEASURED && isnan(joules) && isnan(result.energy_joules));
        printf("energy unmeasured\n");
    }
    GOOD(rin_free_result(&result));
    GOOD(rin_set_power_budget(context, 0));
}

static void logits(RinContext *context, const char *model)
{
    RinLoadOptions load = { .struct_size = sizeof load };
    RinGenerateOptions options = { .struct_size = sizeof options };
    RinResult whole = { .struct_size = sizeof whole }, few = { .struct_size = sizeof few };
    uint32_t ids[64];
    GOOD(rin_load_options_init(&load));
    load.logits_rows = 3;
    GOOD(rin_load_model(context, model, &load));
    int64_t n = rin_encode(context, "hello there", 0, ids, 64);
    int64_t all = rin_logits(context, ids, (size_t)n, 0, NULL, 0), one = rin_logits(context, ids, (size_t)n, 1, NULL, 0);
    CHECK(n > 4 && all == n * one);
    float *rows = malloc((size_t)all * sizeof *rows), *row = malloc((size_t)one * sizeof *row);
    CHECK(rows != NULL && row != NULL);
    CHECK(rin_logits(context, ids, (size_t)n, 0, rows, (size_t)all) == all);
    for (int64_t i = 0; i < n; i++) {
        CHECK(rin_logits(context, ids, (size_t)i + 1, 1, row, (size_t)one) == one);
        CHECK(memcmp(row, rows + i * one, (size_t)one * sizeof *row) == 0);
    }
    /* After ids as after their text; and greedy is the largest logit, unless a bias forbids it. */
    GOOD(rin_generate_options_init(&options));
    options.max_tokens = 6;
    options.temperature = 0;
    options.ignore_eos = 1;
    GOOD(rin_generate(context, "hello there", &options, NULL, NULL, &whole));
    int steps = 0;
    options.every_step = 1;
    GOOD(rin_generate_ids(context, ids, (size_t)n, &options, check_rounding, &steps, &few));
    CHECK(strcmp(whole.digest, few.digest) == 0);
    CHECK(memcmp(whole.tokens, few.tokens, 6 * sizeof *few.tokens) == 0);
    char digest[72];
    CHECK(rin_get_digest(context, digest, sizeof digest) == 71 && strcmp(digest, few.digest) == 0);
    GOOD(rin_free_result(&few));
    RinLogitBias never = { .id = whole.tokens[0], .bias = -INFINITY };
    options.logit_bias = &never;
    options.n_logit_bias = 1;
    GOOD(rin_generate_ids(context, ids, (size_t)n, &options, NULL, NULL, &few));
    CHECK(few.tokens[0] != never.id);
    GOOD(rin_free_result(&few));
    GOOD(rin_free_result(&whole));
    free(rows);
    free(row);
}

/* Keeps the last object that it hears. */
static int32_t keep(const char *text, size_t bytes, void *user)
{
    CHECK(bytes < 512);
    memcpy(user, text, bytes + 1);
    return 0;
}

static void rows(RinContext *context, const char *path)
{
    const char *description =
        "{\"mode\":\"mlp\",\"inputs\":[{\"name\":\"x\",\"shape\":[2]}],\"outputs\":[{\"name\":\"y\",\"kind\":\"values\"}],"
        "\"body\":{\"nodes\":[{\"inputs\":[\"x\"],\"output\":\"y\",\"op\":{\"dense\":{\"weight\":\"w\",\"bias\":\"b\"}}}]}}";
    float weights[] = { 1, 2, 3, 4, 5, 6 }, bias[] = { 0.5f, 0, -1 };
    size_t of_weights[] = { 3, 2 }, of_bias[] = { 3 };
    RinTensor tensors[] = {
        { .name = "w", .dtype = "F32", .shape = of_weights, .n_dims = 2, .data = weights, .n_bytes = sizeof weights },
        { .name = "b", .dtype = "F32", .shape = of_bias, .n_dims = 1, .data = bias, .n_bytes = sizeof bias },
    };
    RinImportOptions options = { .struct_size = sizeof options, .overwrite = 1 };
    RinModelInfo info = { .struct_size = sizeof info };
    char heard[512] = "", json[2048], digest[72];
    int32_t mode = -1;
    GOOD(rin_write_network(path, description, tensors, 2, &options, keep, heard));
    CHECK(strncmp(heard, "{\"event\":\"finished\",", 20) == 0 && strstr(heard, "\"n_tensors\":2") != NULL);
    CHECK(rin_write_network(path, description, tensors, 2, NULL, NULL, NULL) == RIN_STATUS_INVALID_INPUT);
    CHECK(strcmp(rin_last_error_kind(), "Exists") == 0);
    CHECK(rin_write_network(path, description, tensors, 1, &options, NULL, NULL) == RIN_STATUS_WEIGHTS);
    GOOD(rin_load_model(context, path, NULL));
    GOOD(rin_get_mode(context, &mode));
    GOOD(rin_get_model_info(context, &info));
    CHECK(mode == RIN_MODE_MLP && info.mode == RIN_MODE_MLP && info.num_parameters == 9);
    int64_t bytes = rin_describe(context, json, sizeof json);
    CHECK(bytes == (int64_t)strlen(json) && strstr(json, "\"outputs\":[{\"name\":\"y\",\"width\":3") != NULL);
    uint64_t before = 0, after = 0;
    GOOD(rin_get_inference_count(context, &before));
    float x[] = { 1, 0, 0, 1 }, y[6];
    RinInput input = { .values = x, .n_values = 4 };
    RinOutput output = { .values = y, .n_values = 6 };
    GOOD(rin_infer_rows(context, &input, 1, 2, &output, 1));
    float expected[] = { 1.5f, 3, 4, 2.5f, 4, 5 };
    CHECK(memcmp(y, expected, sizeof y) == 0);
    GOOD(rin_get_inference_count(context, &after));
    CHECK(after == before + 1 && rin_get_digest(context, digest, sizeof digest) == 71);
    x[3] = NAN;
    CHECK(rin_infer_rows(context, &input, 1, 2, &output, 1) == RIN_STATUS_INVALID_INPUT);
    CHECK(strcmp(rin_last_error_kind(), "NotFinite") == 0 && strcmp(rin_last_error_place(), "input `x` row 1 place 1") == 0);
    output.n_values = 5;
    CHECK(rin_infer_rows(context, &input, 1, 2, &output, 1) == RIN_STATUS_INVALID_INPUT);
    CHECK(rin_infer_rows(context, &input, 1, 2, &output, 0) == RIN_STATUS_INVALID_INPUT);
    CHECK(rin_generate(context, "a", NULL, NULL, NULL, NULL) == RIN_STATUS_UNSUPPORTED);
    CHECK(rin_import_model(path, path, &options, NULL, NULL) == RIN_STATUS_INVALID_INPUT);
    CHECK(strcmp(rin_last_error_kind(), "AlreadyRin") == 0);
    CHECK(rin_train("no such file", NULL, NULL, NULL) < 0);
    /* What a library was built with differs; either way the call returns. */
    RinStatus embedded = rin_load_embedded(context, NULL);
    CHECK(embedded == RIN_STATUS_OK || embedded == RIN_STATUS_UNSUPPORTED);
}

/* A decoder of one layer whose parts are zeros but the embedding: its logits are those of the norm of a unit row. */
static void decoder(RinContext *context, const char *path)
{
    const char *config =
        "{\"arch\":\"llama\",\"name\":null,\"n_layers\":1,\"dim\":2,\"n_heads\":1,\"n_kv_heads\":1,\"head_dim\":2,\"ffn_dim\":2,"
        "\"vocab\":2,\"ctx\":8,\"norm_eps\":1e-5,\"rope\":{\"base\":10000.0,\"dims\":2,\"pairing\":\"interleaved\",\"scaling\":"
        "{\"type\":\"none\"}},\"qkv_bias\":false,\"attn_output_bias\":false,\"mlp_bias\":false,\"tied_embeddings\":true,"
        "\"window\":null,\"activation\":\"silu\",\"norm\":\"rms\",\"eos\":[],\"bos\":null}";
    const char *tokenizer =
        "{\"version\":\"1.0\",\"added_tokens\":[],\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":"
        "true,\"use_regex\":false},\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":"
        "false},\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[]}}";
    const char *names[] = {
        "token_embd.weight",       "blk.0.attn_q.weight",   "blk.0.attn_k.weight",   "blk.0.attn_v.weight",
        "blk.0.attn_output.weight", "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight",   "blk.0.ffn_down.weight",
        "blk.0.attn_norm.weight",  "blk.0.ffn_norm.weight", "output_norm.weight",
    };
    enum { N = sizeof names / sizeof *names };
    float unit[] = { 1, 0, 0, 1 }, zeros[4] = { 0 }, ones[] = { 1, 1 };
    size_t square[] = { 2, 2 };
    RinTensor tensors[N];
    for (size_t i = 0; i < N; i++) {
        int vector = i >= 8;
        tensors[i] = (RinTensor) {
            .name = names[i], .dtype = "F32", .shape = square, .n_dims = vector ? 1 : 2,
            .data = vector ? ones : i == 0 ? unit : zeros, .n_bytes = vector ? sizeof ones : sizeof zeros,
        };
    }
    RinImportOptions options = { .struct_size = sizeof options, .overwrite = 1 };
    size_t bytes = strlen(tokenizer);
    char heard[512] = "";
    GOOD(rin_write_decoder(path, config, tokenizer, bytes, tensors, N, &options, keep, heard));
    CHECK(strncmp(heard, "{\"event\":\"finished\",", 20) == 0 && strstr(heard, "\"n_tensors\":12") != NULL);
    CHECK(rin_write_decoder(path, config, tokenizer, bytes, tensors, N, NULL, NULL, NULL) == RIN_STATUS_INVALID_INPUT);
    CHECK(strcmp(rin_last_error_kind(), "Exists") == 0);
    CHECK(rin_write_decoder(path, config, tokenizer, bytes, tensors, 3, &options, NULL, NULL) == RIN_STATUS_WEIGHTS);
    CHECK(rin_write_decoder(path, config, tokenizer, bytes - 1, tensors, N, &options, NULL, NULL) == RIN_STATUS_WEIGHTS);
    CHECK(rin_write_decoder(path, "{}", tokenizer, bytes, tensors, N, &options, NULL, NULL) == RIN_STATUS_INVALID_INPUT);
    CHECK(strcmp(rin_last_error_place(), "config") == 0);
    GOOD(rin_load_model(context, path, NULL));
    uint32_t ids[] = { 1, 0 };
    float found[4];
    CHECK(rin_logits(context, ids, 2, 0, found, 4) == 4);
    CHECK(found[0] == 0 && fabsf(found[1] - 1.41420f) < 1e-4f && found[2] == found[1] && found[3] == 0);
}

int main(int argc, char **argv)
{
    RinContext *context = NULL;
    CHECK(argc == 3);
    GOOD(rin_create(&context));
    facts(context, argv[1]);
    text(context);
    generations(context, argv[1]);
    logits(context, argv[1]);
    rows(context, argv[2]);
    decoder(context, argv[2]);
    GOOD(rin_destroy(context));
    return 0;
}
