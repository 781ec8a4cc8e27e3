// SPDX-License-Identifier: Apache-2.0

// The whole of Hydrogen, started as its own index.html does, from the packages that it is made of on npm. hydrogen.mjs
// bundles this and serves it.

import { createNavigation, createRouter, FeatureSet, Platform, RootViewModel } from "hydrogen-view-sdk";

const platform = new Platform({
    container: document.body,
    assetPaths: {
        downloadSandbox: "/assets/download-sandbox.html",
        worker: "/assets/main.js",
        olm: { wasm: "/olm/olm.wasm", legacyBundle: "/olm/olm_legacy.js", wasmBundle: "/olm/olm.js" },
        serviceWorker: "/sw.js",
    },
    config: { defaultHomeServer: new URLSearchParams(location.search).get("home") },
    options: { development: false },
});
await platform.init();
const navigation = createNavigation();
platform.setNavigation(navigation);
const urlRouter = createRouter({ navigation, history: platform.history });
urlRouter.attach();
const features = await FeatureSet.load(platform.settingsStorage);
const vm = new RootViewModel({ platform, urlRouter, navigation, features });
await vm.load();
platform.createAndMountRootView(vm);
