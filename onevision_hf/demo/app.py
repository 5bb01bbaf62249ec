"""The page as a Hub Space, or by itself: python app.py"""

from onevision_hf.demo.page import build_page, launch_settings

demo = build_page()

if __name__ == "__main__":
    demo.launch(**launch_settings())
