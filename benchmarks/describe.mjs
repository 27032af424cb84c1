// Describe photos by transformers.js and by the WASM build of onnxruntime-web: node describe.mjs MODELS NAME OUT.json PHOTO...
// It runs next to node_modules with both packages. OUT.json holds the descriptors of each photo, by each of the ways.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { env, pipeline, RawImage } from '@huggingface/transformers';
import * as ort from 'onnxruntime-web/wasm';

ort.env.wasm.numThreads = 1; // its threads are those of browsers
const [models, name, out, ...photos] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = models;
const describe = await pipeline('image-feature-extraction', name);

const { dtype } = JSON.parse(readFileSync(join(models, name, 'config.json'), 'utf8'))['transformers.js_config'];
const file = { fp32: 'model.onnx', q8: 'model_quantized.onnx' }[dtype];
const session = await ort.InferenceSession.create(readFileSync(join(models, name, 'onnx', file)), { executionProviders: ['wasm'] });

const results = { plain: [], pooled: [], wasm: [], dims: null };
for (const photo of photos) {
    const descriptor = await describe(photo);
    results.dims = descriptor.dims;
    results.plain.push(Array.from(descriptor.data));
    results.pooled.push(Array.from((await describe(photo, { pool: true })).data));
    const { pixel_values } = await describe.processor(await RawImage.read(photo));
    const { pooler_output } = await session.run({ pixel_values: new ort.Tensor('float32', pixel_values.data, pixel_values.dims) });
    results.wasm.push(Array.from(pooler_output.data));
}
results.batch = (await describe([photos[0], photos[0]])).dims;
writeFileSync(out, JSON.stringify(results));
